#include "optimize.h"

#include "dispatch.h"
#include "parallel.h"
#include "stages.h"

namespace nfc {

void adam_step(const AdamJob& job) {
  StageTimer timer(kAdam);
  const Kernels& k = kernels();
  parallel_ranges(job.rows, kRowsPerPiece, [&](int begin, int end) { k.adam(job, begin, end); });
}

void mcmc_noise(int count, float* means, const float* quats, const float* log_scales, const float* opacity_logits,
                float strength, float sharpness, float threshold, uint64_t seed, uint64_t step) {
  StageTimer timer(kNoise);
  const Kernels& k = kernels();
  const NoiseJob job = {means, quats, log_scales, opacity_logits,
                        noise_constants(strength, sharpness, threshold, seed, step)};
  parallel_ranges(count, kRowsPerPiece, [&](int begin, int end) { k.noise(job, begin, end); });
}

}  // namespace nfc
