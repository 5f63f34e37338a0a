// Rasterization, forward and backward, of NFC_CHANNELS channels from `first_channel` on.
//
// Forward: a block per tile, a thread per pixel. Splats are loaded into shared memory 256 at a time. A warp has 8 x 4
// pixels; of each 32 splats it takes those that can reach them, which it finds by a vote. A finished pixel is moved to
// infinity, where no splat reaches it.
//
// Backward: a warp per bucket of consecutive splats of a tile, 32 of them at a time, a lane per splat. The pixels that
// are not finished go through the lanes as through a pipeline, from the nearest splat on, so every lane sums over
// pixels in its own registers: no atomics and no reductions. What leaves the last lane is what enters with the next 32
// splats; the forward pass has stored the state of the pixels at the start of each bucket. Every entry has sums of its
// own, which are added up per Gaussian in a fixed order: gradients are the same in every run.
//
// Both passes compute transmittance by the same instructions (explicit fused multiply-adds) and so agree on which
// splats a pixel sees.

#include "../include/nfc_gs/numeric.h"
#include "render.h"

#ifndef NFC_CHANNELS
#define NFC_CHANNELS 3
#endif

namespace nfc {

constexpr int kChannels = NFC_CHANNELS;
constexpr int kBackwardThreads = 128;
constexpr int kBackwardBlocks = kChannels == 3 ? 0 : 6;  // 0: the choice of NVRTC, whose 13.0 spills at other widths
constexpr float kLog2AlphaMin = -7.9943534f;  // log2(1 / 255)
constexpr float kNowhere = 3e38f;             // the x of a finished pixel: so far off that every exponent is -infinity

// Shared memory is read in words of up to 16 bytes, if these are aligned.
constexpr int kColorAlign = kChannels == 1 ? 4 : kChannels == 2 ? 8 : 16;

struct alignas(kColorAlign) Color {
  float of[kChannels];
};

// The exponent of a splat at a pixel is that of 2^(log2_opacity - u^2 - v^2); see SplatRecord.
struct alignas(16) Form {
  float mean_x, mean_y, p, q;
};

struct alignas(8) Peak {
  float r, log2_opacity;
};

struct Offset {
  float dx, dy, exponent;
};

NFC_HD Offset offset_to(const Form& form, const Peak& peak, float x, float y) {
  Offset o;
  o.dx = x - form.mean_x, o.dy = y - form.mean_y;
  const float u = fmaf(form.p, o.dx, form.q * o.dy), v = peak.r * o.dy;
  o.exponent = fmaf(-u, u, fmaf(-v, v, peak.log2_opacity));
  return o;
}

// What the expected depth is divided by.
NFC_HD float covered(float alpha) { return alpha > 1e-10f ? alpha : 1e-10f; }

// How many of this launch's channels exist: in the last launch not all of them may.
NFC_HD int channels_here(const RenderArgs& args) {
  const int left = args.channels - args.first_channel;
  return left < kChannels ? left : kChannels;
}

NFC_HD Color color_of(const RenderArgs& args, int splat) {
  const float* from = args.colors + size_t(splat) * args.channels + args.first_channel;
  Color color;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) color.of[c] = c < channels_here(args) ? from[c] : 0.0f;
  return color;
}

// A bit for each warp of a tile with this corner whose pixels the box of a splat meets.
NFC_HD unsigned warps_reached(const SplatRecord& s, const Pixel& corner) {
  unsigned warps = 0;
  for (int w = 0; w < kTilePixels / kWarp; ++w) {
    const int column = corner.x + w % 2 * 8, row = corner.y + w / 2 * 4;
    const bool meets =
        s.column_begin < column + 8 && s.column_end > column && s.row_begin < row + 4 && s.row_end > row;
    warps |= unsigned(meets) << w;
  }
  return warps;
}

}  // namespace nfc

NFC_KERNEL(raster, nfc::RenderArgs, nfc::kTilePixels) {
  using namespace nfc;
  constexpr int kBatch = kTilePixels;
  NFC_SHARED(Form, forms, kBatch);
  NFC_SHARED(Peak, peaks, kBatch);
  NFC_SHARED(Color, colors, kBatch);
  NFC_SHARED(unsigned, reaches, kBatch);
  const int tile = blockIdx.x, thread = threadIdx.x, lane = thread % kWarp, channels = channels_here(args);
  const Pixel corner = corner_of(args, tile), pixel = pixel_of(corner, thread);
  const bool inside = is_inside(args, pixel);
  const float y = float(pixel.y) + 0.5f;
  const unsigned my_warp = 1u << (thread / kWarp);
  const int begin = args.tile_begin[tile], end = args.tile_begin[tile + 1];
  const int bucket_splats = args.keep ? *args.bucket_splats : 0;
  size_t bucket = size_t(args.keep ? first_bucket(bucket_splats, tile, begin) : 0);
  if (args.keep)
    for (int k = thread; k * bucket_splats < end - begin; k += kTilePixels) args.bucket_tile[bucket + k] = tile;

  float x = inside ? float(pixel.x) + 0.5f : kNowhere, T = 1.0f, sum[kChannels] = {};
  int batch = begin;
  for (; batch < end; batch += kBatch) {
    if (!__syncthreads_or(x < kNowhere)) break;
    const int count = min(kBatch, end - batch);
    if (thread < count) {
      const int splat = args.slot_splat[batch + thread];
      const SplatRecord s = args.records[splat];
      forms[thread] = Form{s.mean_x, s.mean_y, s.p, s.q};
      peaks[thread] = Peak{s.r, s.log2_opacity};
      colors[thread] = color_of(args, splat);
      reaches[thread] = warps_reached(s, corner);
    }
    __syncthreads();
    for (int group = 0; group < count; group += kWarp) {
      const bool open = x < kNowhere;
      if (args.keep && (group & (bucket_splats - 1)) == 0) {  // which is a power of two and divides a batch
        args.bucket_transmittance[bucket * kTilePixels + thread] = open ? T : -T;
        float* to = args.bucket_sum + (bucket * args.channels + args.first_channel) * kTilePixels + thread;
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          if (open && c < channels) to[c * kTilePixels] = sum[c];
        ++bucket;
      }
      if (!__any_sync(kAllLanes, open)) continue;
      const int mine = group + lane;
      unsigned left = __ballot_sync(kAllLanes, mine < count && (reaches[mine] & my_warp));
      for (; left; left &= left - 1) {
        const int j = group + __ffs(int(left)) - 1;
        const Offset o = offset_to(forms[j], peaks[j], x, y);
        if (!(o.exponent >= kLog2AlphaMin)) continue;
        const float alpha = minimum(exp2f(o.exponent), NFC_ALPHA_MAX), next = fmaf(-T, alpha, T);
        if (next < NFC_TRANSMITTANCE_MIN) {
          x = kNowhere;
          continue;
        }
        const float weight = alpha * T;
        const Color color = colors[j];
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sum[c] = fmaf(weight, color.of[c], sum[c]);
        T = next;
      }
    }
  }
  if (args.keep && thread == 0) args.tile_reached[tile] = min(batch, end) - begin;

  if (!inside) return;
  const size_t at = index_of(args, pixel);
  const int out_channels = args.channels - args.depth;
  const float alpha = 1.0f - T;
  if (args.first_channel == 0) args.out_alpha[at] = alpha;
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    const int channel = args.first_channel + c;
    if (c >= channels) continue;
    if (channel == out_channels) {
      args.out_depth[at] = sum[c] / covered(alpha);
    } else {
      const float behind = args.background ? args.background[channel] : 0.0f;
      args.out[at * out_channels + channel] = fmaf(T, behind, sum[c]);
    }
  }
}

// The gradients of the composited channels, tile by tile, and for each pixel the sum over channels of gradient times
// composited value.
NFC_KERNEL(pixel_gradients, nfc::RenderArgs, nfc::kTilePixels) {
  using namespace nfc;
  const int tile = blockIdx.x, thread = threadIdx.x, channels = channels_here(args);
  const Pixel pixel = pixel_of(corner_of(args, tile), thread);
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

namespace nfc {

// The pixels of a tile on their way through the splats of a bucket, 32 splats at a time: shared memory of a warp.
constexpr int kBefore = kWarp - 1;  // places before the first pixel, for what leaves the last lane before it does
constexpr int kPlaces = kBefore + kTilePixels + kBefore;
constexpr int kQueue = 2 * kWarp;   // pixels in the lanes, and those that enter next
constexpr float kConicScale = 1.0f / (kExponentScale * kExponentScale);

struct alignas(8) PixelState {
  float T, behind;  // before the next splat; T is not positive where the pixel is finished
};

struct alignas(8) Place {
  float x, y;
};

// What a lane knows of its splat, and what it sums up.
struct BackwardSplat {
  Form form;
  Peak peak;
  Color color;
};

struct Sums {
  float moment[kMoments];
  Color v_color;
};

NFC_HD BackwardSplat backward_splat(const RenderArgs& args, int slot, int end) {
  BackwardSplat b = {};
  b.peak.log2_opacity = -kNowhere;  // where there is no splat
  if (slot >= end) return b;
  const int splat = args.slot_splat[slot];
  const SplatRecord s = args.records[splat];
  b.form = {s.mean_x, s.mean_y, s.p, s.q}, b.peak = {s.r, s.log2_opacity}, b.color = color_of(args, splat);
  return b;
}

// Blends a splat into a pixel, whose state becomes that behind the splat, and adds to the splat's sums.
template <bool kAbsgrad>
NFC_HD void blend_backward(const BackwardSplat& s, const Offset& o, const Color& v, PixelState& state, Sums& sums) {
  const float uncapped = exp2f(o.exponent), alpha = minimum(uncapped, NFC_ALPHA_MAX);
  const float next = fmaf(-state.T, alpha, state.T);
  if (next < NFC_TRANSMITTANCE_MIN) {
    state.T = 0.0f;
    return;
  }
  const float weight = alpha * state.T;
  float blended = 0.0f;  // sum over channels of gradient times the splat's part
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    sums.v_color.of[c] = fmaf(weight, v.of[c], sums.v_color.of[c]);
    blended = fmaf(s.color.of[c], v.of[c], blended);
  }
  blended *= weight;
  state.behind -= blended, state.T = next;
  if (uncapped >= NFC_ALPHA_MAX) return;  // a capped alpha has no gradient
  // alpha v_alpha = alpha (T color v - behind / (1 - alpha))
  const float g = blended - alpha * state.behind * reciprocal(1.0f - alpha), gx = g * o.dx, gy = g * o.dy;
  float* moment = sums.moment;
  moment[0] += g, moment[1] += gx, moment[2] += gy;
  moment[3] = fmaf(gx, o.dx, moment[3]), moment[4] = fmaf(gx, o.dy, moment[4]), moment[5] = fmaf(gy, o.dy, moment[5]);
  if (kAbsgrad) {  // the conic, [[p^2, p q], [p q, q^2 + r^2]] kConicScale, times (gx, gy)
    const float along = fmaf(s.form.p, gx, s.form.q * gy);
    moment[6] += fabsf(s.form.p * along), moment[7] += fabsf(fmaf(s.form.q, along, s.peak.r * s.peak.r * gy));
  }
}

// Entries that no other launch has written are written here, others added to.
NFC_HD void write_sums(const RenderArgs& args, int slot, Sums& sums) {
  sums.moment[6] *= kConicScale, sums.moment[7] *= kConicScale;
  float* out = args.partial + size_t(args.slot_entry[slot]) * (kMoments + args.channels);
#pragma unroll
  for (int j = 0; j < kMoments; ++j) out[j] = args.first_channel == 0 ? sums.moment[j] : out[j] + sums.moment[j];
#pragma unroll
  for (int c = 0; c < kChannels; ++c)
    if (c < channels_here(args)) out[kMoments + args.first_channel + c] = sums.v_color.of[c];
}

// What is behind a pixel at the start of a bucket: the sum over channels of gradient times what is yet to be blended.
NFC_HD float behind_at_start(const RenderArgs& args, int tile, int bucket, int index) {
  const float* v_pixel = args.v_pixel + size_t(tile) * kChannels * kTilePixels + index;
  const float* sum = args.bucket_sum + (size_t(bucket) * args.channels + args.first_channel) * kTilePixels + index;
  float behind = args.behind[size_t(tile) * kTilePixels + index];
#pragma unroll
  for (int c = 0; c < kChannels; ++c)
    if (c < channels_here(args)) behind = fmaf(-v_pixel[c * kTilePixels], sum[c * kTilePixels], behind);
  return behind;
}

// Collects, for every entry, the sums over its pixels of g = alpha v_alpha times 1, dx, dy, dx^2, dx dy, dy^2 (all that
// the gradients of opacity, mean and conic need), of |gradient of the mean|, and the gradients of its channels.
template <bool kAbsgrad>
static NFC_HD void bucket_backward(const RenderArgs& args) {
  constexpr int kWarps = kBackwardThreads / kWarp;
  NFC_SHARED(PixelState, states, kWarps * kPlaces);
  NFC_SHARED(unsigned char, pixels, kWarps * kTilePixels);  // of the list: their indices in the tile
  NFC_SHARED(Place, places, kWarps * kQueue);
  NFC_SHARED(Color, gradients, kWarps * kQueue);
  const int warp = int(threadIdx.x) / kWarp, lane = threadIdx.x % kWarp;
  const int bucket = int(blockIdx.x) * kWarps + warp, tile = bucket < args.buckets ? args.bucket_tile[bucket] : -1;
  if (tile < 0) return;
  const int tile_end = args.tile_begin[tile + 1], begin = args.tile_begin[tile];
  const int bucket_splats = *args.bucket_splats;
  const int first = begin + (bucket - first_bucket(bucket_splats, tile, begin)) * bucket_splats;
  const int end = min(first + bucket_splats, tile_end);
  const Pixel corner = corner_of(args, tile);
  const int state0 = warp * kPlaces, pixel0 = warp * kTilePixels, queue0 = warp * kQueue;

  places[queue0 + lane] = places[queue0 + kWarp + lane] = Place{kNowhere, 0.0f};  // for lanes that have no pixel yet
  int listed = first - begin < args.tile_reached[tile] ? kTilePixels : 0;         // pixels
  for (int splats = first; splats < end; splats += kWarp) {
    // List the pixels that are not finished.
    int kept = 0;
    for (int from = 0; from < listed; from += kWarp) {
      const int at = from + lane;
      PixelState state = {-1.0f, 0.0f};
      int index = at;
      if (splats == first) {
        state.T = args.bucket_transmittance[size_t(bucket) * kTilePixels + at];
        if (state.T > 0.0f) state.behind = behind_at_start(args, tile, bucket, at);
      } else if (at < listed) {
        state = states[state0 + kBefore + at], index = pixels[pixel0 + at];
      }
      const unsigned open = __ballot_sync(kAllLanes, state.T > 0.0f);
      const int to = kept + __popc(open & ((1u << lane) - 1));
      if (state.T > 0.0f) states[state0 + kBefore + to] = state, pixels[pixel0 + to] = (unsigned char)(index);
      kept += __popc(open);
      __syncwarp();
    }
    listed = kept;
    if (lane < kBefore) states[state0 + kBefore + listed + lane] = PixelState{-1.0f, 0.0f};  // empties the lanes

    const BackwardSplat splat = backward_splat(args, splats + lane, listed ? end : first);
    Sums sums = {};
    PixelState state = {-1.0f, 0.0f};
    for (int from = 0; listed && from < listed + kBefore; from += kWarp) {
      if (from + lane < listed) {
        const int index = pixels[pixel0 + from + lane], at = queue0 + ((from + lane) & (kQueue - 1));
        const Pixel pixel = pixel_of(corner, index);
        places[at] = Place{float(pixel.x) + 0.5f, float(pixel.y) + 0.5f};
        const float* v_pixel = args.v_pixel + size_t(tile) * kChannels * kTilePixels + index;
        Color v;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) v.of[c] = v_pixel[c * kTilePixels];
        gradients[at] = v;
      }
      __syncwarp();
      int step = from;
#pragma unroll 1
      for (int left = min(kWarp, listed + kBefore - from); left > 0; --left, ++step) {
        state.T = __shfl_up_sync(kAllLanes, state.T, 1), state.behind = __shfl_up_sync(kAllLanes, state.behind, 1);
        if (lane == 0) state = states[state0 + kBefore + step];
        const int at = queue0 + ((step - lane) & (kQueue - 1));
        const Place place = places[at];
        const Offset o = offset_to(splat.form, splat.peak, place.x, place.y);
        if ((state.T > 0.0f) & (o.exponent >= kLog2AlphaMin))  // no lane skips what most lanes need
          blend_backward<kAbsgrad>(splat, o, gradients[at], state, sums);
        if (lane == kWarp - 1) states[state0 + step] = state;
      }
    }
    if (splats + lane < end) write_sums(args, splats + lane, sums);
    __syncwarp();
  }
}

}  // namespace nfc

NFC_KERNEL(raster_backward, nfc::RenderArgs, nfc::kBackwardThreads, nfc::kBackwardBlocks) {
  nfc::bucket_backward<false>(args);
}

NFC_KERNEL(raster_backward_absgrad, nfc::RenderArgs, nfc::kBackwardThreads, nfc::kBackwardBlocks) {
  nfc::bucket_backward<true>(args);
}
