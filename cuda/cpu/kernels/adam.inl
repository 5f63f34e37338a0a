// Adam over the rows of visible Gaussians, with a learning rate per column.
#pragma once

#include "simd.h"
#include "rows.inl"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// The moments of a job, float or BFloat16.
template <class Number>
struct Moments {
  Number *first, *second;
};

// Calls `use` with the moments that a job has.
template <class Use>
inline void with_moments(const AdamJob& job, const Use& use) {
  if (job.first) {
    use(Moments<float>{job.first, job.second});
  } else {
    use(Moments<BFloat16>{job.first16, job.second16});
  }
}

inline Vu indices_from(size_t first) {
  alignas(64) uint32_t index[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = uint32_t(first) + uint32_t(lane);
  return load(index);
}

// One vector of values; lanes where `keep` is set stay as they are.
template <bool Keep, class Number>
inline void adam_vector(const AdamJob& job, const Moments<Number>& moments, size_t at, const float* gradient, Vf rate,
                        Mask keep) {
  const AdamState<Vf> old = {load(job.value + at), load(moments.first + at), load(moments.second + at)};
  AdamState<Vf> now = adam_update(job.constants, old, load(gradient), rate);
  now = as_stored(job.constants, now, indices_from(at), moments.first);
  const auto put = [&](auto* where, Vf now, Vf before) { store(where + at, Keep ? select(keep, before, now) : now); };
  put(moments.first, now.first, old.first), put(moments.second, now.second, old.second);
  put(job.value, now.value, old.value);
}

// One row, given its gradient. Where it is longer than a vector and not a whole number of them, its last values are
// updated first, in a vector that overlaps the one before and leaves the values of that one as they are.
template <class Number>
inline void adam_row(const AdamJob& job, const Moments<Number>& moments, size_t row, const float* gradient, Mask keep) {
  const int rest = job.columns % kLanes, tail = job.columns - kLanes;
  const bool overlaps = rest && tail > 0;
  const size_t first = row * size_t(job.columns);
  if (overlaps) adam_vector<true>(job, moments, first + tail, gradient + tail, load(job.rates + tail), keep);
  int column = 0;
  for (; column + kLanes <= job.columns; column += kLanes)
    adam_vector<false>(job, moments, first + column, gradient + column, load(job.rates + column), keep);
  if (overlaps) return;
  for (; column < job.columns; ++column)
    adam_move(job.constants, job.value, moments.first, moments.second, first + column, gradient[column],
              job.rates[column]);
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
  with_moments(job, [&](const auto& moments) {
    for (int row = begin; row < end; ++row) {
      if (job.visible && !job.visible[row]) continue;
      adam_row(job, moments, size_t(row), job.gradient + size_t(row) * job.columns, keep);
    }
  });
}

// The rows of a vector of Gaussians, given their gradients: the values of rows that are `Width` long, side by side.
template <int Width>
inline void adam_rows(const AdamJob& job, const Rows& rows, const Vf* gradient) {
  with_moments(job, [&](const auto& moments) {
    Vf value[Width], first[Width], second[Width];
    load_rows<Width>(job.value, rows, value), load_rows<Width>(moments.first, rows, first);
    load_rows<Width>(moments.second, rows, second);
    alignas(64) uint32_t index[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) index[lane] = uint32_t(rows[lane]) * uint32_t(Width);
    for (int j = 0; j < Width; ++j) {
      const AdamState<Vf> old = {value[j], first[j], second[j]};
      AdamState<Vf> now = adam_update(job.constants, old, gradient[j], broadcast(job.rates[j]));
      now = as_stored(job.constants, now, load(index) + uint32_t(j), moments.first);
      value[j] = now.value, first[j] = now.first, second[j] = now.second;
    }
    store_rows<Width>(job.value, rows, value), store_rows<Width>(moments.first, rows, first);
    store_rows<Width>(moments.second, rows, second);
  });
}

// The same of longer rows, whose gradients are one after the other in memory.
inline void adam_rows(const AdamJob& job, const Rows& rows, const float* gradient) {
  const Mask keep = kept_lanes(job);
  with_moments(job, [&](const auto& moments) {
    for (int lane = 0; lane < rows.count; ++lane)
      adam_row(job, moments, rows[lane], gradient + size_t(lane) * job.columns, keep);
  });
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
