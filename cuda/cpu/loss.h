// The photometric losses of one image, with their gradients.
#pragma once

#include "kernels/jobs.h"

namespace nfc {

// Means over the values that count.
struct LossValues {
  double l1, dssim, mse, ce;  // ce: 0 if its weight is 0
};

// L1, squared error, SSIM and cross entropy in one pass; fills job.gradient if set. Sets `job`'s scratch pointers.
LossValues photometric_loss(LossJob& job);

// Bit-wise cross entropy; fills job.gradient if set. Sets `job`'s scratch pointer.
double bit_loss(BitLossJob& job);

}  // namespace nfc
