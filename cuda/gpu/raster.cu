// Rasterization, forward and backward, of NFC_CHANNELS channels from `first_channel` on.
//
// Forward: a block per tile, a thread per pixel. Splats are loaded into shared memory 256 at a time. A warp has 8 x 4
// pixels and skips a splat that cannot reach them; a finished warp skips the rest.
//
// Backward: a warp per bucket of 32 splats of a tile, a lane per splat. The pixels of the tile go through the lanes as
// through a pipeline, from the nearest splat on, so every lane sums over pixels in its own registers: no atomics and no
// reductions. The forward pass has stored the state of the pixels at the start of each bucket. Every entry has sums of
// its own, which are added up per Gaussian in a fixed order: gradients are the same in every run.
//
// Both passes compute transmittance by the same instructions (explicit fused multiply-adds) and so agree on which
// splats a pixel sees. A finished pixel holds -T.

#include "../include/nfc_gs/numeric.h"
#include "render.h"

#ifndef NFC_CHANNELS
#define NFC_CHANNELS 3
#endif

namespace nfc {

constexpr int kChannels = NFC_CHANNELS;
constexpr int kBackwardThreads = 128;

// A splat at a pixel.
struct Blend {
  float dx, dy, uncapped, alpha;  // alpha is 0 where the splat does not count
};

NFC_HD Blend blend(float mean_x, float mean_y, float p, float q, float r, float log2_opacity, float x, float y) {
  Blend b;
  b.dx = x - mean_x, b.dy = y - mean_y;
  const float u = fmaf(p, b.dx, q * b.dy), v = r * b.dy;
  const float exponent = fmaf(-u, u, fmaf(-v, v, log2_opacity));
  const float log2_alpha_min = -7.9943534f;  // log2(1 / 255)
  b.uncapped = exp2f(exponent);
  b.alpha = exponent >= log2_alpha_min ? minimum(b.uncapped, NFC_ALPHA_MAX) : 0.0f;
  return b;
}

// What the expected depth is divided by.
NFC_HD float covered(float alpha) { return alpha > 1e-10f ? alpha : 1e-10f; }

// How many of this launch's channels exist: in the last launch not all of them may.
NFC_HD int channels_here(const RenderArgs& args) {
  const int left = args.channels - args.first_channel;
  return left < kChannels ? left : kChannels;
}

}  // namespace nfc

NFC_KERNEL(raster, nfc::RenderArgs, nfc::kTilePixels) {
  using namespace nfc;
  constexpr int kBatch = kTilePixels;
  NFC_SHARED(float, mean_x, kBatch);
  NFC_SHARED(float, mean_y, kBatch);
  NFC_SHARED(float, form_p, kBatch);
  NFC_SHARED(float, form_q, kBatch);
  NFC_SHARED(float, form_r, kBatch);
  NFC_SHARED(float, log2_opacity, kBatch);
  NFC_SHARED(unsigned, reaches, kBatch);
  NFC_SHARED(float, color, kBatch * kChannels);
  const int tile = blockIdx.x, thread = threadIdx.x, channels = channels_here(args);
  const Pixel pixel = pixel_of(args, tile, thread);
  const bool inside = is_inside(args, pixel);
  const float x = float(pixel.x) + 0.5f, y = float(pixel.y) + 0.5f;
  const Pixel corner = corner_of(args, tile);
  const unsigned my_warp = 1u << (thread / kWarp);
  const int begin = args.tile_begin[tile], end = args.tile_begin[tile + 1];
  const int bucket0 = first_bucket(tile, begin);

  float T = inside ? 1.0f : -1.0f, sum[kChannels] = {};
  for (int batch = begin; batch < end; batch += kBatch) {
    if (!__syncthreads_or(T > 0.0f)) break;
    const int count = min(kBatch, end - batch);
    if (thread < count) {
      const int splat = args.slot_splat[batch + thread];
      const SplatRecord s = args.records[splat];
      mean_x[thread] = s.mean_x, mean_y[thread] = s.mean_y, form_p[thread] = s.p, form_q[thread] = s.q;
      form_r[thread] = s.r, log2_opacity[thread] = s.log2_opacity;
      // A bit for each warp whose pixels the splat's box meets.
      unsigned warps = 0;
      for (int w = 0; w < kTilePixels / kWarp; ++w) {
        const int column = corner.x + w % 2 * 8, row = corner.y + w / 2 * 4;
        const bool meets = s.column_begin < column + 8 && s.column_end > column && s.row_begin < row + 4 &&
                           s.row_end > row;
        warps |= unsigned(meets) << w;
      }
      reaches[thread] = warps;
      const float* from = args.colors + size_t(splat) * args.channels + args.first_channel;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) color[kChannels * thread + c] = c < channels ? from[c] : 0.0f;
    }
    __syncthreads();
    for (int group = 0; group < count; group += kBucket) {
      const bool busy = __any_sync(kAllLanes, T > 0.0f);
      if (args.keep) {
        const int bucket = bucket0 + (batch - begin + group) / kBucket;
        if (thread == 0) args.bucket_tile[bucket] = tile;
        args.bucket_transmittance[size_t(bucket) * kTilePixels + thread] = T;
        if (busy)
          for (int c = 0; c < channels; ++c)
            args.bucket_sum[(size_t(bucket) * args.channels + args.first_channel + c) * kTilePixels + thread] = sum[c];
      }
      if (!busy) continue;
      const int stop = min(group + kBucket, count);
      for (int j = group; j < stop; ++j) {
        if (!(reaches[j] & my_warp)) continue;
        const Blend b = blend(mean_x[j], mean_y[j], form_p[j], form_q[j], form_r[j], log2_opacity[j], x, y);
        if (!(T > 0.0f) || b.alpha == 0.0f) continue;
        const float next = fmaf(-T, b.alpha, T);
        if (next < NFC_TRANSMITTANCE_MIN) {
          T = -T;
          continue;
        }
        const float weight = b.alpha * T;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sum[c] = fmaf(weight, color[kChannels * j + c], sum[c]);
        T = next;
      }
    }
  }

  if (!inside) return;
  const size_t at = index_of(args, pixel);
  const int out_channels = args.channels - args.depth;
  const float rest = fabsf(T), alpha = 1.0f - rest;
  if (args.first_channel == 0) args.out_alpha[at] = alpha;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int channel = args.first_channel + c;
    if (c >= channels) continue;
    if (channel == out_channels) {
      args.out_depth[at] = sum[c] / covered(alpha);
    } else {
      const float behind = args.background ? args.background[channel] : 0.0f;
      args.out[at * out_channels + channel] = fmaf(rest, behind, sum[c]);
    }
  }
}

// The gradients of the composited channels, tile by tile, and for each pixel the sum over channels of gradient times
// composited value.
NFC_KERNEL(pixel_gradients, nfc::RenderArgs, nfc::kTilePixels) {
  using namespace nfc;
  const int tile = blockIdx.x, thread = threadIdx.x, channels = channels_here(args);
  const Pixel pixel = pixel_of(args, tile, thread);
  const bool inside = is_inside(args, pixel);
  const size_t at = inside ? index_of(args, pixel) : 0;
  const int out_channels = args.channels - args.depth;
  const float alpha = inside ? args.out_alpha[at] : 0.0f;
  float behind = 0.0f;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int channel = args.first_channel + c;
    float v = 0.0f;
    if (inside && c < channels && channel == out_channels && args.v_depth) {  // depth = sum / covered(alpha)
      v = args.v_depth[at] / covered(alpha);
      behind = fmaf(args.out_depth[at], args.v_depth[at], behind);
    } else if (inside && channel < out_channels && args.v_out) {
      v = args.v_out[at * out_channels + channel];
      behind = fmaf(args.out[at * out_channels + channel], v, behind);
    }
    args.v_pixel[(size_t(tile) * kChannels + c) * kTilePixels + thread] = v;
  }
  if (inside && args.first_channel == 0) {  // alpha = 1 - T; its gradient is part of the first launch
    float v_alpha = args.v_alpha ? args.v_alpha[at] : 0.0f;
    if (args.v_depth && alpha > 1e-10f) v_alpha -= args.v_depth[at] * args.out_depth[at] / alpha;
    behind -= (1.0f - alpha) * v_alpha;
  }
  args.behind[size_t(tile) * kTilePixels + thread] = behind;
}

// Collects, for every entry, the sums over its pixels of g = alpha v_alpha times 1, dx, dy, dx^2, dx dy, dy^2 (all that
// the gradients of opacity, mean and conic need), of |gradient of the mean|, and the gradients of its channels.
NFC_KERNEL(raster_backward, nfc::RenderArgs, nfc::kBackwardThreads) {
  using namespace nfc;
  const int bucket = int(blockIdx.x) * (kBackwardThreads / kWarp) + int(threadIdx.x) / kWarp;
  if (bucket >= args.buckets) return;
  const int tile = args.bucket_tile[bucket], lane = threadIdx.x % kWarp, channels = channels_here(args);
  if (tile < 0) return;
  const int begin = args.tile_begin[tile], end = args.tile_begin[tile + 1];
  const int slot = begin + (bucket - first_bucket(tile, begin)) * kBucket + lane;
  const bool valid = slot < end;
  SplatRecord s = {};
  float color[kChannels] = {};
  if (valid) {
    const int splat = args.slot_splat[slot];
    s = args.records[splat];
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (c < channels) color[c] = args.colors[size_t(splat) * args.channels + args.first_channel + c];
  }
  const float* v_pixel = args.v_pixel + size_t(tile) * kChannels * kTilePixels;
  const float* start_T = args.bucket_transmittance + size_t(bucket) * kTilePixels;
  const float* start_sum =
      args.bucket_sum + (size_t(bucket) * args.channels + args.first_channel) * kTilePixels;

  float moment[kMoments] = {}, v_color[kChannels] = {};
  float T = -1.0f, behind = 0.0f, new_T = -1.0f, new_behind = 0.0f;
  for (int step = 0; step < kTilePixels + kWarp - 1; ++step) {
    if (step % kWarp == 0) {  // the next 32 pixels, a pixel each
      const int next = step + lane;
      new_T = next < kTilePixels ? start_T[next] : -1.0f;
      new_behind = 0.0f;
      if (new_T > 0.0f) {
        new_behind = args.behind[size_t(tile) * kTilePixels + next];
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          if (c < channels)
            new_behind = fmaf(-v_pixel[c * kTilePixels + next], start_sum[size_t(c) * kTilePixels + next], new_behind);
      }
    }
    const float entering_T = __shfl_sync(kAllLanes, new_T, step % kWarp);
    const float entering_behind = __shfl_sync(kAllLanes, new_behind, step % kWarp);
    T = __shfl_up_sync(kAllLanes, T, 1), behind = __shfl_up_sync(kAllLanes, behind, 1);
    if (lane == 0) T = entering_T, behind = entering_behind;
    if (!valid || !(T > 0.0f)) continue;

    const int index = step - lane;
    const Pixel pixel = pixel_of(args, tile, index);
    const Blend b = blend(s.mean_x, s.mean_y, s.p, s.q, s.r, s.log2_opacity, float(pixel.x) + 0.5f,
                          float(pixel.y) + 0.5f);
    if (b.alpha == 0.0f) continue;
    const float next = fmaf(-T, b.alpha, T);
    if (next < NFC_TRANSMITTANCE_MIN) {
      T = -T;
      continue;
    }
    const float weight = b.alpha * T;
    float blended = 0.0f;  // sum over channels of gradient times the splat's part
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      const float v = v_pixel[c * kTilePixels + index];
      v_color[c] = fmaf(weight, v, v_color[c]);
      blended = fmaf(color[c], v, blended);
    }
    blended *= weight;
    behind -= blended, T = next;
    if (b.uncapped >= NFC_ALPHA_MAX) continue;  // a capped alpha has no gradient
    // alpha v_alpha = alpha (T color v - behind / (1 - alpha))
    const float g = blended - b.alpha * behind / (1.0f - b.alpha), gx = g * b.dx, gy = g * b.dy;
    moment[0] += g, moment[1] += gx, moment[2] += gy;
    moment[3] = fmaf(gx, b.dx, moment[3]), moment[4] = fmaf(gx, b.dy, moment[4]);
    moment[5] = fmaf(gy, b.dy, moment[5]);
    if (args.absgrad) {
      moment[6] += fabsf(fmaf(s.conic_a, gx, s.conic_b * gy));
      moment[7] += fabsf(fmaf(s.conic_b, gx, s.conic_c * gy));
    }
  }
  if (!valid) return;
  float* out = args.partial + size_t(args.slot_entry[slot]) * (kMoments + args.channels);
#pragma unroll
  for (int j = 0; j < kMoments; ++j) out[j] += moment[j];
#pragma unroll
  for (int c = 0; c < kChannels; ++c)
    if (c < channels) out[kMoments + args.first_channel + c] = v_color[c];
}
