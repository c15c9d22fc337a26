// Everything comes from the libraries that it is linked of.
