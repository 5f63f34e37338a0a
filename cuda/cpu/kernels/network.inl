// A small network, x -> relu(W1 x + b1) -> relu(W2 h1 + b2) -> W3 h2 + b3, forward and backward, for a tile of
// kPointsPerTile points at a time. Values are stored in columns: value i of all points of the tile contiguously.
#pragma once

#include "simd.h"
#include "jobs.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

constexpr int kGroups = kPointsPerTile / kLanes;

// Rows [kPointsPerTile, n] to columns [n, kGroups]; n is a multiple of kLanes.
inline void to_columns(const float* rows, int n, Vf* columns) {
  for (int g = 0; g < kGroups; ++g)
    for (int c = 0; c < n; c += kLanes) {
      Vf t[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) t[lane] = load(rows + size_t(g * kLanes + lane) * n + c);
      transpose(t);
      for (int j = 0; j < kLanes; ++j) columns[(c + j) * kGroups + g] = t[j];
    }
}

inline void to_rows(const Vf* columns, int n, float* rows) {
  for (int g = 0; g < kGroups; ++g)
    for (int c = 0; c < n; c += kLanes) {
      Vf t[kLanes];
      for (int j = 0; j < kLanes; ++j) t[j] = columns[(c + j) * kGroups + g];
      transpose(t);
      for (int lane = 0; lane < kLanes; ++lane) store(rows + size_t(g * kLanes + lane) * n + c, t[lane]);
    }
}

// y = W x + bias, W [outputs, inputs] row-major, outputs a multiple of 4; bias may be null.
inline void dense(const float* w, const float* bias, int outputs, int inputs, const Vf* x, Vf* y) {
  constexpr int kStep = kGroups < 2 ? kGroups : 2;
  for (int g = 0; g < kGroups; g += kStep)
    for (int o = 0; o < outputs; o += 4) {
      Vf sum[4][kStep];
      for (int k = 0; k < 4; ++k)
        for (int s = 0; s < kStep; ++s) sum[k][s] = broadcast(bias ? bias[o + k] : 0.0f);
      const float* row = w + size_t(o) * inputs;
      for (int i = 0; i < inputs; ++i)
        for (int k = 0; k < 4; ++k)
          for (int s = 0; s < kStep; ++s)
            sum[k][s] = sum[k][s] + row[size_t(k) * inputs + i] * x[i * kGroups + g + s];
      for (int k = 0; k < 4; ++k)
        for (int s = 0; s < kStep; ++s) y[(o + k) * kGroups + g + s] = sum[k][s];
    }
}

inline void rectify(Vf* values, int n) {
  for (int i = 0; i < n * kGroups; ++i) values[i] = maximum(Vf{}, values[i]);  // NaN stays NaN
}

// The gradient is zero where the layer's output is.
inline void rectify_backward(const Vf* values, int n, Vf* v) {
  for (int i = 0; i < n * kGroups; ++i) v[i] = select(values[i] > Vf{}, v[i], Vf{});
}

// v_w += v x^T and v_bias += sum of v over the tile's points; x in rows. outputs is a multiple of 8.
inline void add_outer(const Vf* v, int outputs, const float* x, int inputs, float* v_w, float* v_bias) {
  alignas(64) float columns[8][kPointsPerTile];
  for (int o = 0; o < outputs; o += 8) {
    for (int k = 0; k < 8; ++k) {
      Vf total = Vf{};
      for (int g = 0; g < kGroups; ++g) {
        store(columns[k] + g * kLanes, v[(o + k) * kGroups + g]);
        total = total + v[(o + k) * kGroups + g];
      }
      v_bias[o + k] += sum_lanes(total);
    }
    for (int i = 0; i < inputs; i += kLanes) {
      Vf sum[8];
      float* out = v_w + size_t(o) * inputs + i;
      for (int k = 0; k < 8; ++k) sum[k] = load(out + size_t(k) * inputs);
      for (int p = 0; p < kPointsPerTile; ++p) {
        const Vf value = load(x + size_t(p) * inputs + i);
        for (int k = 0; k < 8; ++k) sum[k] = sum[k] + columns[k][p] * value;
      }
      for (int k = 0; k < 8; ++k) store(out + size_t(k) * inputs, sum[k]);
    }
  }
}

// The inputs of a tile in rows, zeros beyond the last point; returns the number of points.
inline int tile_rows(const NetworkJob& job, int tile, float* rows) {
  const int begin = tile * kPointsPerTile;
  const int count = job.count - begin < kPointsPerTile ? job.count - begin : kPointsPerTile;
  const size_t used = size_t(count) * job.inputs;
  memcpy(rows, job.x + size_t(begin) * job.inputs, used * sizeof(float));
  memset(rows + used, 0, (size_t(kPointsPerTile) * job.inputs - used) * sizeof(float));
  return count;
}

void network(const NetworkJob& job, int tile) {
  alignas(64) float rows[kPointsPerTile * kMaxWidth];
  Vf x[kMaxWidth * kGroups], h[kMaxWidth * kGroups];
  const int count = tile_rows(job, tile, rows);
  to_columns(rows, job.inputs, x);
  dense(job.w1, job.b1, job.width, job.inputs, x, h), rectify(h, job.width);
  dense(job.w2, job.b2, job.width, job.width, h, x), rectify(x, job.width);
  dense(job.w3, job.b3, job.padded_outputs, job.width, x, h);
  float* out = job.out + size_t(tile) * kPointsPerTile * job.outputs;
  for (int p = 0; p < count; ++p)
    for (int o = 0; o < job.outputs; ++o) out[size_t(p) * job.outputs + o] = h[o * kGroups + p / kLanes][p % kLanes];
}

// Writes the gradient of a tile's inputs and adds those of the weights to `partial`, which are in the order of w1, b1,
// w2, b2, w3, b3.
void network_backward(const NetworkJob& job, int tile, float* partial) {
  alignas(64) float rows[kPointsPerTile * kMaxWidth], hidden[kPointsPerTile * kMaxWidth];
  Vf x[kMaxWidth * kGroups], h1[kMaxWidth * kGroups], h2[kMaxWidth * kGroups], v[kMaxWidth * kGroups];
  const int count = tile_rows(job, tile, rows), width = job.width;
  to_columns(rows, job.inputs, x);
  dense(job.w1, job.b1, width, job.inputs, x, h1), rectify(h1, width);
  dense(job.w2, job.b2, width, width, h1, h2), rectify(h2, width);

  float* v_w1 = partial;
  float* v_b1 = v_w1 + size_t(width) * job.inputs;
  float* v_w2 = v_b1 + width;
  float* v_b2 = v_w2 + size_t(width) * width;
  float* v_w3 = v_b2 + width;
  float* v_b3 = v_w3 + size_t(job.padded_outputs) * width;
  const float* v_out = job.v_out + size_t(tile) * kPointsPerTile * job.outputs;
  for (int i = 0; i < job.padded_outputs * kGroups; ++i) v[i] = Vf{};
  for (int p = 0; p < count; ++p)
    for (int o = 0; o < job.outputs; ++o) v[o * kGroups + p / kLanes][p % kLanes] = v_out[size_t(p) * job.outputs + o];
  to_rows(h2, width, hidden);
  add_outer(v, job.padded_outputs, hidden, width, v_w3, v_b3);
  dense(job.w3_transposed, nullptr, width, job.padded_outputs, v, x), rectify_backward(h2, width, x);
  to_rows(h1, width, hidden);
  add_outer(x, width, hidden, width, v_w2, v_b2);
  dense(job.w2_transposed, nullptr, width, width, x, v), rectify_backward(h1, width, v);
  add_outer(v, width, rows, job.inputs, v_w1, v_b1);
  dense(job.w1_transposed, nullptr, job.inputs, width, v, x);
  to_rows(x, job.inputs, rows);
  memcpy(job.v_x + size_t(tile) * kPointsPerTile * job.inputs, rows, size_t(count) * job.inputs * sizeof(float));
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
