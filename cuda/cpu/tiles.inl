// Which tiles a splat touches: exact ellipse-tile tests, a row of tiles at a time.

// The ellipse that bounds a splat, { sigma <= reach }, in offsets from its mean.
class Ellipse {
 public:
  explicit Ellipse(const SplatRecord& s) : s_(s) {
    // By way of ratios and of r, which knows the variance of y: the determinant of the conic cancels to nothing for
    // long needles.
    const float inv_variance_y = s.r * s.r / (kExponentScale * kExponentScale), inv_a = 1.0f / s.conic_a;
    slope_ = -s.conic_b * inv_a;                         // of the line through the middles of the chords
    half_ = s.extent_y * sqrtf(inv_variance_y * inv_a);  // of the chord at dy = 0
    inv_extent_y_ = 1.0f / s.extent_y;
    dy_right_ = -s.conic_b * s.extent_x / s.conic_c;
  }

  // The chord at dy, which is cut to the ellipse: smallest and largest dx.
  void chord(float dy, float* left, float* right) const {
    dy = dy < -s_.extent_y ? -s_.extent_y : dy > s_.extent_y ? s_.extent_y : dy;
    const float relative = dy * inv_extent_y_, inside = 1.0f - relative * relative;
    const float middle = slope_ * dy, half = inside > 0.0f ? half_ * sqrtf(inside) : 0.0f;
    *left = middle - half, *right = middle + half;
  }

  // Whether the rightmost point (and, mirrored, the leftmost) lies between two values of dy.
  bool rightmost_between(float low, float high) const { return dy_right_ >= low && dy_right_ <= high; }
  bool leftmost_between(float low, float high) const { return -dy_right_ >= low && -dy_right_ <= high; }

 private:
  const SplatRecord& s_;
  float slope_, half_, inv_extent_y_, dy_right_;
};

static size_t list_tiles(const RenderJob& job, const uint32_t* splats, int count, uint32_t* first, uint32_t* histogram,
                         uint32_t* list) {
  uint32_t* next = list;
  for (int k = 0; k < count; ++k) {
    const SplatRecord& s = job.records[splats[k]];
    if (k + 8 < count) NFC_PREFETCH(job.records + splats[k + 8]);
    first[k] = uint32_t(next - list);
    const int row_begin = s.row_begin / kTile, row_end = (s.row_end + kTile - 1) / kTile;
    const int column_begin = s.column_begin / kTile, column_end = (s.column_end + kTile - 1) / kTile;
    if (row_end - row_begin <= 1 || column_end - column_begin <= 1) {  // the box is exact enough
      for (int row = row_begin; row < row_end; ++row) {
        for (int column = column_begin; column < column_end; ++column) {
          const uint32_t tile = uint32_t(row * job.tiles_x + column);
          *next++ = tile, ++histogram[tile];
        }
      }
      continue;
    }
    const Ellipse ellipse(s);
    const float x = s.mean_x - 0.5f, y = s.mean_y - 0.5f;  // pixel centres at whole numbers
    const float slack = 0.02f + 1e-5f * s.extent_x;        // rounding grows with the ellipse; it may only add tiles
    float low = float(row_begin * kTile) - 0.5f - y, left_low, right_low;
    ellipse.chord(low, &left_low, &right_low);
    for (int row = row_begin; row < row_end; ++row) {
      const float high = low + float(kTile);
      float left_high, right_high;
      ellipse.chord(high, &left_high, &right_high);
      float left = left_low < left_high ? left_low : left_high, right = right_low > right_high ? right_low : right_high;
      if (ellipse.leftmost_between(low, high)) left = -s.extent_x;
      if (ellipse.rightmost_between(low, high)) right = s.extent_x;
      const int pixel_begin = clamp_int(ceilf(x + left - slack), s.column_begin, s.column_end);
      const int pixel_end = clamp_int(floorf(x + right + slack) + 1.0f, s.column_begin, s.column_end);
      for (int column = pixel_begin / kTile; column < (pixel_end + kTile - 1) / kTile; ++column) {
        const uint32_t tile = uint32_t(row * job.tiles_x + column);
        *next++ = tile, ++histogram[tile];
      }
      low = high, left_low = left_high, right_low = right_high;
    }
  }
  return size_t(next - list);
}
