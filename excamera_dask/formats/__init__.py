"""The containers that frames are written into and read from as bytes: IVF, WebM and Y4M."""
