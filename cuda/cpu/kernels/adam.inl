// Adam over the rows of visible Gaussians, with a learning rate per column.
#pragma once

#include "simd.h"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

inline void adam_value(const AdamJob& job, size_t at, float rate) {
  const AdamState<float> old = {job.value[at], job.first[at], job.second[at]};
  const AdamState<float> now = adam_update(job.constants, old, job.gradient[at], rate);
  job.value[at] = now.value, job.first[at] = now.first, job.second[at] = now.second;
}

// One vector of values; lanes where `keep` is set stay as they are.
template <bool Keep>
inline void adam_vector(const AdamJob& job, size_t at, Vf rate, Mask keep) {
  const auto put = [&](float* where, Vf now, Vf before) { store(where + at, Keep ? select(keep, before, now) : now); };
  const AdamState<Vf> old = {load(job.value + at), load(job.first + at), load(job.second + at)};
  const AdamState<Vf> now = adam_update(job.constants, old, load(job.gradient + at), rate);
  put(job.first, now.first, old.first), put(job.second, now.second, old.second);
  put(job.value, now.value, old.value);
}

// Where a row is longer than a vector and not a whole number of them, its last values are updated first, in a vector
// that overlaps the one before and leaves the values of that one as they are.
void adam(const AdamJob& job, int begin, int end) {
  const int rest = job.columns % kLanes, tail = job.columns - kLanes;
  alignas(64) float kept[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) kept[lane] = lane < kLanes - rest ? 1.0f : 0.0f;
  const Mask keep = load(kept) > Vf{};
  const bool overlaps = rest && tail > 0;
  for (int row = begin; row < end; ++row) {
    if (job.visible && !job.visible[row]) continue;
    const size_t first = size_t(row) * job.columns;
    if (overlaps) adam_vector<true>(job, first + tail, load(job.rates + tail), keep);
    int column = 0;
    for (; column + kLanes <= job.columns; column += kLanes)
      adam_vector<false>(job, first + column, load(job.rates + column), keep);
    if (overlaps) continue;
    for (; column < job.columns; ++column) adam_value(job, first + column, job.rates[column]);
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
