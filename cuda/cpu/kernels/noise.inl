// The exploration noise of MCMC on a vector of Gaussians at a time: the random numbers and the formula of
// include/nfc_gs/mcmc.h, to rounding.
#pragma once

#include "simd.h"
#include "rows.inl"
#include "jobs.h"
#include "../../include/nfc_gs/loss.h"
#include "../../include/nfc_gs/projection.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// sin and cos of 2 pi x for x in [0, 1], errors below 2e-7: Taylor's polynomials in the eighth of a turn around the
// nearest multiple of a quarter, of which the signs and the choice of the polynomial follow.
inline void sine_and_cosine(Vf x, Vf* sine, Vf* cosine) {
  const float round = 12582912.0f;  // as in exp_2
  const Vf shifted = 4.0f * x + round;
  const Vf angle = (4.0f * x - (shifted - round)) * 1.570796327f, square = angle * angle;
  Vf s = broadcast(2.755731922e-6f);
  s = s * square - 1.984126984e-4f;
  s = s * square + 8.333333333e-3f;
  s = s * square - 1.666666667e-1f;
  s = s * square * angle + angle;
  Vf c = broadcast(-2.755731922e-7f);
  c = c * square + 2.480158730e-5f;
  c = c * square - 1.388888889e-3f;
  c = c * square + 4.166666667e-2f;
  c = c * square - 0.5f;
  c = c * square + 1.0f;
  const Vf quarter = shifted - round;  // 0, 1, 2, 3 or 4
  const Mask first = both(quarter > broadcast(0.5f), quarter < broadcast(1.5f));
  const Mask third = both(quarter > broadcast(2.5f), quarter < broadcast(3.5f));
  const Mask second = both(quarter > broadcast(1.5f), quarter < broadcast(2.5f));
  *sine = select(first, c, select(third, -c, select(second, -s, s)));
  *cosine = select(first, -s, select(third, s, select(second, -c, c)));
}

// Three normal values for each Gaussian of the rows.
inline void normal_values(uint64_t key, const Rows& rows, Vf* z) {
  alignas(64) float u[4][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int pair = 0; pair < 2; ++pair) {
      const uint64_t random = mix(key ^ (2 * uint64_t(rows[lane]) + uint64_t(pair)));
      u[2 * pair][lane] = uniform(uint32_t(random)), u[2 * pair + 1][lane] = uniform(uint32_t(random >> 32));
    }
  }
  Vf sine, cosine;
  const Vf radius = square_root(-2.0f * kLn2 * log_2(load(u[0])));
  sine_and_cosine(load(u[1]), &sine, &cosine);
  z[0] = radius * cosine, z[1] = radius * sine;
  sine_and_cosine(load(u[3]), &sine, &cosine);
  z[2] = square_root(-2.0f * kLn2 * log_2(load(u[2]))) * cosine;
}

// `explore` for the Gaussians of the rows, whose gates are open.
inline void explore_rows(const NoiseJob& job, const Rows& rows) {
  const NoiseConstants& k = job.constants;
  Vf mean[3], quat[4], log_scale[3], logit, z[3], R[9], local[3];
  load_rows<3>(job.means, rows, mean), load_rows<4>(job.quats, rows, quat);
  load_rows<3>(job.log_scales, rows, log_scale), load_rows<1>(job.opacity_logits, rows, &logit);
  normal_values(k.key, rows, z);
  const Vf gate = sigmoid(k.sharpness * (k.threshold - sigmoid(logit)));
  const Vf norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
  const Vf inv = 1.0f / square_root(norm2);
  for (int j = 0; j < 4; ++j) quat[j] = quat[j] * inv;
  quat_to_matrix(quat, R);
  for (int j = 0; j < 3; ++j)
    local[j] = exponential(2.0f * log_scale[j]) * (R[j] * z[0] + R[3 + j] * z[1] + R[6 + j] * z[2]) * gate * k.strength;
  for (int j = 0; j < 3; ++j) {
    const Vf move = R[3 * j] * local[0] + R[3 * j + 1] * local[1] + R[3 * j + 2] * local[2];
    mean[j] = mean[j] + select(move - move == Vf{}, move, Vf{});
  }
  store_rows<3>(job.means, rows, mean);
}

void noise(const NoiseJob& job, int begin, int end) {
  int list[kLanes], count = 0;
  for (int i = begin; i < end; ++i) {
    if (job.opacity_logits[i] < job.constants.highest_logit) list[count++] = i;
    if (count < kLanes && i + 1 < end) continue;
    if (count) explore_rows(job, rows_of(list, count));
    count = 0;
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
