// The arguments of the other kernels of a training step. `kernel_args.py` in nfc_gs/ops has the same structs; a test
// compares them. Arrays are row-major; null if not requested.
#pragma once

#include "../include/nfc_gs/adam.h"
#include "../include/nfc_gs/constants.h"
#include "kernel.h"

namespace nfc {

constexpr int kLossTerms = 4;  // absolute error, squared error, 1 - SSIM, cross entropy
constexpr int kLossTile = 16;  // pixels along the side of a block's tile of the image

// Comparison of a rendering with a photograph; see losses.py. T blocks of kLossTile x kLossTile pixels.
struct LossArgs {
  const float* rendered;        // [H, W, 3]
  const unsigned char* target;  // [H, W, 3]
  const unsigned char* mask;    // [H, W], counts from 128 on; or null
  const float* inv_count;       // 1 / (3 * number of pixels that count), or 0
  float* derivative;            // [3, H, W, 3] of the loss with respect to the means under the window, or null
  float* sums;                  // [T, kLossTerms] over values that count
  float* values;                // [kLossTerms + 1] the terms, and the loss
  const float* v_loss;
  float* gradient;              // [H, W, 3]
  int width, height, tiles_x, tiles;
  float l1_weight, mse_weight, ssim_weight, ce_weight, ce_eps;
  float window[NFC_SSIM_WINDOW];
};

// Cross entropy of composited bit probabilities with the bits of an image. T blocks of kLossTile x kLossTile
// probabilities.
struct BitLossArgs {
  const float* probabilities;   // [H, W, 24]
  const unsigned char* target;  // [H, W, 3]
  const unsigned char* mask;    // [H, W] or null
  const float* inv_count;       // as above
  float* sums;                  // [T]
  const float* v_loss;
  float* gradient;              // [H, W, 24]
  int count;                    // of probabilities
  float eps;
};

constexpr int kMaxParameters = 24;

// A tensor [rows, columns] that Adam updates; the first columns have a learning rate of their own.
struct AdamParameter {
  float* value;
  const float* gradient;
  void *first, *second;
  int rows, columns, first_columns, first_block;
  float first_rate, rate;
};

struct AdamArgs {
  AdamParameter parameters[kMaxParameters];
  const unsigned char* visible;  // [rows] of every parameter, or null: all
  int count;                     // of parameters
  AdamConstants constants;
  int bfloat16_moments;          // moments are BFloat16, not float
};

struct NoiseArgs {
  float* means;                                       // [N, 3]
  const float *quats, *log_scales, *opacity_logits;  // [N, 4], [N, 3], [N]
  unsigned long long seed, step;
  int count;
  float strength, sharpness, threshold;  // see mcmc.h
};

struct RelocateArgs {
  float *opacity_logits, *log_scales;  // [N], [N, 3]
  const int* copies;                   // [N] that are made of each Gaussian
  int count, max_copies;
  float min_opacity;
};

}  // namespace nfc
