// What changes the parameters in a training step: Adam, and the exploration noise of MCMC.
#pragma once

#include <cstdint>

#include "kernels/jobs.h"

namespace nfc {

// A step of Adam over the visible rows.
void adam_step(const AdamJob& job);

// Adds the exploration noise of MCMC (Kheradmand et al. 2024, eq. 8) to the means: a function of the arguments and the
// row's index alone.
void mcmc_noise(int count, float* means, const float* quats, const float* log_scales, const float* opacity_logits,
                float strength, float sharpness, float threshold, uint64_t seed, uint64_t step);

}  // namespace nfc
