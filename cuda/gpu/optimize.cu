// What changes parameters: Adam, MCMC's exploration noise, and the opacity and scale of Gaussians that are copied.

#include "../include/nfc_gs/adam.h"
#include "../include/nfc_gs/mcmc.h"
#include "train.h"

namespace nfc {

constexpr int kThreads = 256;
constexpr int kAdamValues = 4;  // values of a thread, kThreads apart, whose loads are in flight together
constexpr int kAdamBlocks = 2048 / kThreads;  // of a multiprocessor that is full

}  // namespace nfc

// All tensors in one launch; a block has values of one of them.
NFC_KERNEL(adam, nfc::AdamArgs, nfc::kThreads, nfc::kAdamBlocks) {
  using namespace nfc;
  int which = 0;
  while (which + 1 < args.count && int(blockIdx.x) >= args.parameters[which + 1].first_block) ++which;
  const AdamParameter& p = args.parameters[which];
  const size_t size = size_t(p.rows) * p.columns;
  const size_t first = size_t(int(blockIdx.x) - p.first_block) * (kThreads * kAdamValues) + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kAdamValues; ++j) {
    const size_t k = first + size_t(j) * kThreads;
    if (k >= size) continue;
    const unsigned row = unsigned(k / unsigned(p.columns)), column = unsigned(k % unsigned(p.columns));
    if (args.visible && !args.visible[row]) continue;
    const float rate = int(column) < p.first_columns ? p.first_rate : p.rate;
    adam_move(args.constants, args.bfloat16_moments, p.value, p.first, p.second, k, p.gradient[k], rate);
  }
}

NFC_KERNEL(mcmc_noise, nfc::NoiseArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size_t(args.count)) return;
  const NoiseConstants constants =
      noise_constants(args.strength, args.sharpness, args.threshold, args.seed, args.step);
  explore(constants, unsigned(i), args.quats + 4 * i, args.log_scales + 3 * i, args.opacity_logits[i],
          args.means + 3 * i);
}

// The opacity and scale of a Gaussian of which copies are made in its place, so that all of them together render as it
// did (Kheradmand et al. 2024, eq. 9; see `relocation` in density_ops.py for its form here).
NFC_KERNEL(share_among_copies, nfc::RelocateArgs, nfc::kThreads) {
  using namespace nfc;
  const size_t i = size_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= size_t(args.count) || args.copies[i] == 0) return;
  const int n = min(args.copies[i] + 1, args.max_copies);
  const float tiny = 1.1920929e-7f;
  const float opacity = minimum(maximum(sigmoid(args.opacity_logits[i]), tiny), 1.0f - tiny);
  const double shared = -expm1(log1p(-double(opacity)) / n);
  double integral = 0.0, binomial = 1.0, power = 1.0;
  for (int k = 1; k <= n; ++k) {
    binomial *= double(n - k + 1) / k, power *= -shared;
    integral -= binomial * power / sqrt(double(k));
  }
  const float shrink = float(log(double(opacity) / integral));
  const float now = minimum(maximum(float(shared), args.min_opacity), 1.0f - tiny);
  args.opacity_logits[i] = logf(now / (1.0f - now));
  for (int axis = 0; axis < 3; ++axis) args.log_scales[3 * i + axis] += shrink;
}
