// Adam over the rows of visible Gaussians, with a learning rate per column.
#pragma once

#include "simd.h"
#include "rows.inl"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

inline void adam_value(const AdamJob& job, size_t at, float gradient, float rate) {
  const AdamState<float> old = {job.value[at], job.first[at], job.second[at]};
  const AdamState<float> now = adam_update(job.constants, old, gradient, rate);
  job.value[at] = now.value, job.first[at] = now.first, job.second[at] = now.second;
}

// One vector of values; lanes where `keep` is set stay as they are.
template <bool Keep>
inline void adam_vector(const AdamJob& job, size_t at, const float* gradient, Vf rate, Mask keep) {
  const auto put = [&](float* where, Vf now, Vf before) { store(where + at, Keep ? select(keep, before, now) : now); };
  const AdamState<Vf> old = {load(job.value + at), load(job.first + at), load(job.second + at)};
  const AdamState<Vf> now = adam_update(job.constants, old, load(gradient), rate);
  put(job.first, now.first, old.first), put(job.second, now.second, old.second);
  put(job.value, now.value, old.value);
}

// One row, given its gradient. Where it is longer than a vector and not a whole number of them, its last values are
// updated first, in a vector that overlaps the one before and leaves the values of that one as they are.
inline void adam_row(const AdamJob& job, size_t row, const float* gradient, Mask keep) {
  const int rest = job.columns % kLanes, tail = job.columns - kLanes;
  const bool overlaps = rest && tail > 0;
  const size_t first = row * size_t(job.columns);
  if (overlaps) adam_vector<true>(job, first + tail, gradient + tail, load(job.rates + tail), keep);
  int column = 0;
  for (; column + kLanes <= job.columns; column += kLanes)
    adam_vector<false>(job, first + column, gradient + column, load(job.rates + column), keep);
  if (overlaps) return;
  for (; column < job.columns; ++column) adam_value(job, first + column, gradient[column], job.rates[column]);
}

// The lanes that the overlapping vector of a row leaves as they are.
inline Mask kept_lanes(const AdamJob& job) {
  const int rest = job.columns % kLanes;
  alignas(64) float kept[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) kept[lane] = lane < kLanes - rest ? 1.0f : 0.0f;
  return load(kept) > Vf{};
}

void adam(const AdamJob& job, int begin, int end) {
  const Mask keep = kept_lanes(job);
  for (int row = begin; row < end; ++row) {
    if (job.visible && !job.visible[row]) continue;
    adam_row(job, size_t(row), job.gradient + size_t(row) * job.columns, keep);
  }
}

// The rows of a vector of Gaussians, given their gradients: the values of rows that are `Width` long, side by side.
template <int Width>
inline void adam_rows(const AdamJob& job, const Rows& rows, const Vf* gradient) {
  Vf value[Width], first[Width], second[Width];
  load_rows<Width>(job.value, rows, value), load_rows<Width>(job.first, rows, first);
  load_rows<Width>(job.second, rows, second);
  for (int j = 0; j < Width; ++j) {
    const AdamState<Vf> old = {value[j], first[j], second[j]};
    const AdamState<Vf> now = adam_update(job.constants, old, gradient[j], broadcast(job.rates[j]));
    value[j] = now.value, first[j] = now.first, second[j] = now.second;
  }
  store_rows<Width>(job.value, rows, value), store_rows<Width>(job.first, rows, first);
  store_rows<Width>(job.second, rows, second);
}

// The same of longer rows, whose gradients are one after the other in memory.
inline void adam_rows(const AdamJob& job, const Rows& rows, const float* gradient) {
  const Mask keep = kept_lanes(job);
  for (int lane = 0; lane < rows.count; ++lane)
    adam_row(job, rows[lane], gradient + size_t(lane) * job.columns, keep);
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
