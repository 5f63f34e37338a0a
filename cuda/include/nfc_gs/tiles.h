// Which tiles a splat touches: exact ellipse-tile tests, a row of tiles at a time.
#pragma once

#include "numeric.h"
#include "splat.h"

namespace nfc {
inline namespace NFC_ISA {

NFC_HD int clamp_int(float x, int low, int high) { return x <= float(low) ? low : x >= float(high) ? high : int(x); }

// The ellipse that bounds a splat, { sigma <= reach }, in offsets from its mean.
class Ellipse {
 public:
  NFC_HD explicit Ellipse(const SplatRecord& s) : extent_y_(s.extent_y) {
    // By way of ratios and of r, which knows the variance of y: the determinant of the conic cancels to nothing for
    // long needles.
    const float inv_variance_y = s.r * s.r / (kExponentScale * kExponentScale), inv_a = 1.0f / s.conic_a;
    slope_ = -s.conic_b * inv_a;                        // of the line through the middles of the chords
    half_ = s.extent_y * sqrtf(inv_variance_y * inv_a);  // of the chord at dy = 0
    inv_extent_y_ = 1.0f / s.extent_y;
    dy_right_ = -s.conic_b * s.extent_x / s.conic_c;
  }

  // The chord at dy, which is cut to the ellipse: smallest and largest dx.
  NFC_HD void chord(float dy, float* left, float* right) const {
    dy = dy < -extent_y_ ? -extent_y_ : dy > extent_y_ ? extent_y_ : dy;
    const float relative = dy * inv_extent_y_, inside = 1.0f - relative * relative;
    const float middle = slope_ * dy, half = inside > 0.0f ? half_ * sqrtf(inside) : 0.0f;
    *left = middle - half, *right = middle + half;
  }

  // Whether the rightmost point (and, mirrored, the leftmost) lies between two values of dy.
  NFC_HD bool rightmost_between(float low, float high) const { return dy_right_ >= low && dy_right_ <= high; }
  NFC_HD bool leftmost_between(float low, float high) const { return -dy_right_ >= low && -dy_right_ <= high; }

 private:
  float extent_y_, slope_, half_, inv_extent_y_, dy_right_;
};

// Iterates over the rows of tiles that a splat touches, from the top.
class TileRows {
 public:
  int row, column_begin, column_end;  // of tiles

  NFC_HD explicit TileRows(const SplatRecord& s)
      : row(s.row_begin / kTile - 1),
        column_begin(s.column_begin / kTile),
        column_end((s.column_end + kTile - 1) / kTile),
        row_end_((s.row_end + kTile - 1) / kTile),
        splat_(s),
        ellipse_(s) {
    box_ = row_end_ - row <= 2 || column_end - column_begin <= 1;  // the box is exact enough
    if (box_) return;
    low_ = float((row + 1) * kTile) - 0.5f - (s.mean_y - 0.5f);
    ellipse_.chord(low_, &left_, &right_);
  }

  // Goes to the next row; false after the last one.
  NFC_HD bool next() {
    if (++row >= row_end_) return false;
    if (box_) return true;
    const SplatRecord& s = splat_;
    const float x = s.mean_x - 0.5f;                 // pixel centres at whole numbers
    const float slack = 0.02f + 1e-5f * s.extent_x;  // rounding grows with the ellipse; it may only add tiles
    const float high = low_ + float(kTile);
    float left_high, right_high;
    ellipse_.chord(high, &left_high, &right_high);
    float left = left_ < left_high ? left_ : left_high, right = right_ > right_high ? right_ : right_high;
    if (ellipse_.leftmost_between(low_, high)) left = -s.extent_x;
    if (ellipse_.rightmost_between(low_, high)) right = s.extent_x;
    column_begin = clamp_int(ceilf(x + left - slack), s.column_begin, s.column_end) / kTile;
    column_end = (clamp_int(floorf(x + right + slack) + 1.0f, s.column_begin, s.column_end) + kTile - 1) / kTile;
    low_ = high, left_ = left_high, right_ = right_high;
    return true;
  }

 private:
  int row_end_;
  const SplatRecord& splat_;
  Ellipse ellipse_;
  bool box_;
  float low_ = 0.0f, left_ = 0.0f, right_ = 0.0f;  // the upper edge of the row and the chord there
};

}  // namespace NFC_ISA
}  // namespace nfc
