// How alike two images are, in double precision.
#pragma once

#include "kernels/jobs.h"

namespace nfc {

// Squared differences, summed over the values that count.
double squared_error(const SimilarityJob& job);

// SSIM, summed over the values that count and have their whole window in the image, which is at least as large.
double similarity(const SimilarityJob& job);

}  // namespace nfc
