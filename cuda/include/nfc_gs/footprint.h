// The pixels that a projected Gaussian can reach, and whether it is visible at all.
#pragma once

#include "projection.h"
#include "splat.h"
#include "tiles.h"

namespace nfc {
inline namespace NFC_ISA {

template <class F>
struct Footprint {
  F mean_x, mean_y, depth;
  F alpha, log2_alpha;    // opacity after compensation
  F extent_x, extent_y;   // half size in pixels of the box outside which alpha < ALPHA_MIN
  F p, q, r;              // see SplatRecord
  F conic_a, conic_b, conic_c;
};

template <class F>
NFC_HD Footprint<F> footprint(const Projection<F>& o, F opacity) {
  Footprint<F> f;
  f.mean_x = o.mean_x, f.mean_y = o.mean_y, f.depth = o.p.z;
  f.alpha = opacity * o.compensation;
  f.log2_alpha = log_2(f.alpha);
  // alpha >= ALPHA_MIN while sigma <= reach: the tight bound of the splat (and log(255 alpha) needs alpha >= 1/255)
  const F reach = 0.69314718f * f.log2_alpha + 5.5412635f;
  f.extent_x = square_root(2.0f * reach * o.xx), f.extent_y = square_root(2.0f * reach * o.yy);
  const float k = kExponentScale;
  const F root = square_root(o.yy);
  const F inv_root_det = 1.0f / square_root(o.det);
  f.p = k * root * inv_root_det, f.r = k / root, f.q = -k * o.xy * inv_root_det / root;
  f.conic_a = o.conic_a, f.conic_b = o.conic_b, f.conic_c = o.conic_c;
  return f;
}

NFC_HD bool finite(float x) { return x - x == 0.0f; }

// Written so that a NaN anywhere fails a comparison and the Gaussian is culled.
NFC_HD bool is_visible(const Footprint<float>& f, const PixelBox& window) {
  return f.depth >= NFC_NEAR_PLANE && finite(f.depth) && f.alpha >= NFC_ALPHA_MIN && finite(f.alpha) && finite(f.p) &&
         f.p > 0.0f && finite(f.q) && finite(f.r) && f.r > 0.0f && finite(f.conic_a) && finite(f.conic_b) &&
         finite(f.conic_c) && finite(f.extent_x) && finite(f.extent_y) &&
         f.mean_x + f.extent_x > float(window.left) && f.mean_x - f.extent_x < float(window.right) &&
         f.mean_y + f.extent_y > float(window.top) && f.mean_y - f.extent_y < float(window.bottom);
}

NFC_HD SplatRecord record_of(const Footprint<float>& f, const PixelBox& window) {
  // The slack keeps rounding from cutting off a pixel that passes the alpha test.
  const float slack = 0.01f, x = f.mean_x - 0.5f, y = f.mean_y - 0.5f, ex = f.extent_x, ey = f.extent_y;
  return {f.mean_x,
          f.mean_y,
          f.p,
          f.q,
          f.r,
          f.log2_alpha,
          ex,
          ey,
          f.conic_a,
          f.conic_b,
          f.conic_c,
          f.depth,
          clamp_int(ceilf(y - ey - slack), window.top, window.bottom),
          clamp_int(floorf(y + ey + slack) + 1.0f, window.top, window.bottom),
          clamp_int(ceilf(x - ex - slack), window.left, window.right),
          clamp_int(floorf(x + ex + slack) + 1.0f, window.left, window.right)};
}

// Half the size of the bounding box in whole pixels, at least 1, and small enough for an int.
NFC_HD int radius_of(float extent) {
  const float limit = 1073741824.0f, radius = ceilf(extent);
  return radius < 1.0f ? 1 : int(radius < limit ? radius : limit);
}

}  // namespace NFC_ISA
}  // namespace nfc
