// Numerical thresholds; nfc_gs/core/constants.py gives the reasons and a test holds the two together.
#pragma once

#define NFC_NEAR_PLANE 0.01f
#define NFC_BLUR 0.3f
#define NFC_ALPHA_MIN (1.0f / 255.0f)
#define NFC_ALPHA_MAX 0.99f
#define NFC_TRANSMITTANCE_MIN 1e-4f
#define NFC_FRUSTUM_MARGIN 0.3f
#define NFC_TILE_SIZE 16
#define NFC_SSIM_WINDOW 11
#define NFC_SSIM_SIGMA 1.5f
#define NFC_SSIM_C1 1e-4f
#define NFC_SSIM_C2 9e-4f
#define NFC_BITS 8
