"""CT and masks as files and arrays: volumes, DICOM, lungs, meshes."""
