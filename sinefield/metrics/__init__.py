"""Scores, and what people call them."""

SCORES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "iou": "IoU",
    "shell_iou": "IoU of shells",
    "chamfer_l1": "Chamfer L1",
    "chamfer_l2": "Chamfer L2",
    "fscore": "F-score",
    "normal_consistency": "normal consistency",
    "colour_rms": "colour error (RMS)",
    "sdf_error": "distance error near the surface (%)",
    "sdf_error_far": "distance error in twice the box (%)",
    "gradient_error": "gradient error (degrees)",
}
"""What reports call a score, and its name for people. Chamfer distances are in the input's units, errors of colour in
sRGB of 0 to 1, of distances in percent of the box's diagonal."""
