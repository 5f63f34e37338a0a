// Rows of arrays [N, ...] gathered into vectors of one column each, one Gaussian in each lane, and scattered back.
#pragma once

#include "simd.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// Which Gaussians the lanes hold. Lanes from `count` on repeat the first one and are never written.
struct Rows {
  int index[kLanes];
  int count;

  size_t operator[](int lane) const { return size_t(index[lane]); }
};

// The first kLanes of a list of `left` Gaussians.
inline Rows rows_of(const int* list, int left) {
  Rows rows;
  rows.count = left < kLanes ? left : kLanes;
  for (int lane = 0; lane < kLanes; ++lane) rows.index[lane] = list[lane < rows.count ? lane : 0];
  return rows;
}

// Arrays whose rows are few numbers wide, float or BFloat16.
template <int Width, class Number>
inline void load_rows(const Number* base, const Rows& rows, Vf* out) {
  alignas(64) float columns[Width][kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Number* row = base + Width * rows[lane];
    for (int j = 0; j < Width; ++j) columns[j][lane] = widened(row[j]);
  }
  for (int j = 0; j < Width; ++j) out[j] = load(columns[j]);
}

template <int Width, class Number>
inline void store_rows(Number* base, const Rows& rows, const Vf* values) {
  alignas(64) float columns[Width][kLanes];
  for (int j = 0; j < Width; ++j) store(columns[j], values[j]);
  for (int lane = 0; lane < rows.count; ++lane)
    for (int j = 0; j < Width; ++j) narrow(columns[j][lane], base + Width * rows[lane] + j);
}

// The first `columns` floats of rows that are `stride` floats apart: blocks of kLanes x kLanes are transposed, and the
// last of them may overlap the one before.
inline void load_columns(const float* base, size_t stride, int columns, const Rows& rows, Vf* value) {
  if (columns < kLanes) {
    for (int column = 0; column < columns; ++column) {
      alignas(64) float lanes[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = base[stride * rows[lane] + column];
      value[column] = load(lanes);
    }
    return;
  }
  for (int next = 0; next < columns; next += kLanes) {
    const int column = next + kLanes <= columns ? next : columns - kLanes;
    for (int lane = 0; lane < kLanes; ++lane) value[column + lane] = load(base + stride * rows[lane] + column);
    transpose(value + column);
  }
}

// The inverse of load_columns; overwrites `value`.
inline void store_columns(float* base, size_t stride, int columns, const Rows& rows, Vf* value) {
  if (columns < kLanes) {
    for (int column = 0; column < columns; ++column) {
      alignas(64) float lanes[kLanes];
      store(lanes, value[column]);
      for (int lane = 0; lane < rows.count; ++lane) base[stride * rows[lane] + column] = lanes[lane];
    }
    return;
  }
  if (columns % kLanes) {
    Vf last[kLanes];
    for (int i = 0; i < kLanes; ++i) last[i] = value[columns - kLanes + i];
    transpose(last);
    for (int lane = 0; lane < rows.count; ++lane) store(base + stride * rows[lane] + columns - kLanes, last[lane]);
  }
  for (int column = 0; column + kLanes <= columns; column += kLanes) {
    transpose(value + column);
    for (int lane = 0; lane < rows.count; ++lane) store(base + stride * rows[lane] + column, value[column + lane]);
  }
}

// Zeros in the columns of the rows from `from` on.
inline void zero_columns(float* base, size_t stride, int from, const Rows& rows) {
  if (size_t(from) >= stride) return;
  for (int lane = 0; lane < rows.count; ++lane)
    memset(base + stride * rows[lane] + from, 0, sizeof(float) * (stride - size_t(from)));
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
