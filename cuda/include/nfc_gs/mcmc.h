// The exploration noise of faint Gaussians (3D Gaussian splatting as Markov chain Monte Carlo, Kheradmand et al. 2024,
// eq. 8), for one Gaussian.
#pragma once

#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

// A counter-based generator: the value depends on (seed, step, index) alone. SplitMix64's finaliser (Steele et al.
// 2014) over the mixed counters.
NFC_HD unsigned long long mix(unsigned long long x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

NFC_HD float uniform(unsigned bits) { return (float(bits >> 8) + 0.5f) * (1.0f / 16777216.0f); }

// Two normal values from 64 random bits (Box and Muller 1958).
NFC_HD void normal_pair(unsigned long long random, float* a, float* b) {
  const float radius = sqrtf(-2.0f * logf(uniform(unsigned(random))));
  const float turns = uniform(unsigned(random >> 32));
#if defined(__CUDACC_RTC__)  // without the code for large angles, which has a table in local memory
  *a = radius * cospif(2.0f * turns), *b = radius * sinpif(2.0f * turns);
#else
  const float angle = 6.2831853f * turns;
  *a = radius * cosf(angle), *b = radius * sinf(angle);
#endif
}

struct NoiseConstants {
  float strength, sharpness, threshold;  // gate = sigmoid(-sharpness (opacity - threshold))
  float highest_logit;                   // beyond it the gate is below 1e-6, and Gaussians stay where they are
  unsigned long long key;                // of seed and step
};

NFC_HD NoiseConstants noise_constants(float strength, float sharpness, float threshold, unsigned long long seed,
                                      unsigned long long step) {
  const float highest = threshold + 13.815510f / sharpness;
  const float highest_logit = highest < 1.0f ? logf(highest / (1.0f - highest)) : 1e30f;
  return {strength, sharpness, threshold, highest_logit, mix(mix(seed) ^ step)};
}

// Moves the mean of Gaussian i by Sigma z gate strength, z normal; components that are not finite are left out.
NFC_HD void explore(const NoiseConstants& k, unsigned i, const float* quat, const float* log_scale, float opacity_logit,
                    float* mean) {
  if (!(opacity_logit < k.highest_logit)) return;
  const float opacity = sigmoid(opacity_logit);
  const float gate = 1.0f / (1.0f + expf(k.sharpness * (opacity - k.threshold)));
  float z[4];
  normal_pair(mix(k.key ^ (2 * (unsigned long long)i)), z, z + 1);
  normal_pair(mix(k.key ^ (2 * (unsigned long long)i + 1)), z + 2, z + 3);
  const float inv = 1.0f / sqrtf(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3]);
  const float w = quat[0] * inv, a = quat[1] * inv, b = quat[2] * inv, c = quat[3] * inv;
  const float R[9] = {1 - 2 * (b * b + c * c), 2 * (a * b - w * c),     2 * (a * c + w * b),
                      2 * (a * b + w * c),     1 - 2 * (a * a + c * c), 2 * (b * c - w * a),
                      2 * (a * c - w * b),     2 * (b * c + w * a),     1 - 2 * (a * a + b * b)};
  float local[3];  // Sigma z = R S^2 R^T z
  for (int j = 0; j < 3; ++j) {
    const float variance = expf(2.0f * log_scale[j]);
    local[j] = variance * (R[j] * z[0] + R[3 + j] * z[1] + R[6 + j] * z[2]) * gate * k.strength;
  }
  for (int j = 0; j < 3; ++j) {
    const float move = R[3 * j] * local[0] + R[3 * j + 1] * local[1] + R[3 * j + 2] * local[2];
    if (move - move == 0.0f) mean[j] += move;
  }
}

}  // namespace NFC_ISA
}  // namespace nfc
