// The cell of a HexPlane's grid that a coordinate is in (4D Gaussian splatting, Wu et al. 2024, section 4.2): between
// two grid points, of which the first of all is at -1 and the last at 1.
#pragma once

#include "numeric.h"

namespace nfc {
inline namespace NFC_ISA {

constexpr int kPlanes = 6;
constexpr int kTimeAxis = 3;

// The axes of a plane's columns and rows: xy, xz, yz, xt, yt, zt.
NFC_HD constexpr int column_axis(int plane) { return plane < kTimeAxis ? plane / 2 : plane - kTimeAxis; }
NFC_HD constexpr int row_axis(int plane) { return plane == 0 ? 1 : plane < kTimeAxis ? 2 : kTimeAxis; }

struct Cell {
  int first;     // the lower of the two grid points, at most their number - 2
  float weight;  // of the upper one
  float slope;   // d (first + weight) / d coordinate: 0 beyond the border, where features stay the same
};

NFC_HD Cell cell_of(float coordinate, int cells) {
  const float scale = 0.5f * float(cells - 1);
  const float place = (coordinate + 1.0f) * scale;
  const float last = float(cells - 1);
  if (!(place > 0.0f)) return {0, 0.0f, 0.0f};  // and for NaN
  if (place >= last) return {cells - 2, 1.0f, 0.0f};
  const int first = int(place) < cells - 2 ? int(place) : cells - 2;
  return {first, place - float(first), scale};
}

}  // namespace NFC_ISA
}  // namespace nfc
