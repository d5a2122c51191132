"""Writes an array as a folder of DICOM slices."""

from pathlib import Path

import numpy as np


def write_series(folder: Path, data: np.ndarray, affine: np.ndarray, *, description: str) -> None:
    """One MR image per slice along k; `affine` takes voxels to RAS mm and must run along the world's axes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True)
    study, series, frame = (generate_uid() for _ in range(3))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    for k in range(data.shape[2]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        one = Dataset()
        one.file_meta = meta
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        one.Modality, one.Manufacturer, one.PatientID, one.PatientName = "MR", "None", "1", "Synthetic"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SeriesNumber, one.InstanceNumber, one.AcquisitionNumber = 1, k + 1, 1
        one.SeriesDescription = one.ProtocolName = description
        one.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        one.Rows, one.Columns = data.shape[1], data.shape[0]
        one.PixelSpacing = [float(sizes[1]), float(sizes[0])]
        one.SliceThickness = one.SpacingBetweenSlices = float(sizes[2])
        one.ImageOrientationPatient = [*(lps[:3, 0] / sizes[0]).tolist(), *(lps[:3, 1] / sizes[1]).tolist()]
        one.ImagePositionPatient = (lps @ [0, 0, k, 1])[:3].tolist()
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 0
        one.PixelData = np.ascontiguousarray(data[:, :, k].T.astype(np.uint16)).tobytes()
        one.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)
