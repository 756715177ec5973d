"""Scores, and what people call them."""

SCORES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "iou": "IoU",
    "chamfer_l1": "Chamfer L1",
    "chamfer_l2": "Chamfer L2",
    "fscore": "F-score",
    "normal_consistency": "normal consistency",
}
"""What reports call a score, and its name for people. Chamfer distances are in the input's units."""
MAIN_SCORE = {"radiance": "psnr", "shape": "iou", "image": "psnr", "shapes": "iou"}
QUICK_SCORE = {
    "radiance": "PSNR (dB), one view",
    "shape": "IoU, held-out points",
    "image": "PSNR (dB)",
    "shapes": "IoU, held-out shapes",
}
"""What the main score is measured on while a field of some kind trains."""
