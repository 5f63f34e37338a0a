// Features of points in the planes of a HexPlane, forward and backward: bilinear in each plane, multiplied over the six
// planes of a level. A vector holds neighbouring features of one point. Points are taken in an order in which
// neighbours in space follow each other, so that the cells they read are still in the cache.
#pragma once

#include "simd.h"
#include "jobs.h"
#include "../../include/nfc_gs/hexplane.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

// The four cells of a plane around a point.
struct PlaneCells {
  size_t at;                // of the first of them, in floats
  size_t row, column;       // to the next row and column, in floats
  Cell x, y;                // along columns and rows
};

inline PlaneCells plane_cells(const HexPlaneJob& job, int level, int plane, const float* point) {
  const int index = kPlanes * level + plane, columns = job.columns[index];
  PlaneCells c;
  c.x = cell_of(point[column_axis(plane)], columns), c.y = cell_of(point[row_axis(plane)], job.rows[index]);
  c.column = size_t(job.features), c.row = c.column * size_t(columns);
  c.at = c.row * size_t(c.y.first) + c.column * size_t(c.x.first);
  return c;
}

inline void point_of(const HexPlaneJob& job, int i, float* point) {
  for (int axis = 0; axis < 3; ++axis) point[axis] = job.coords[3 * size_t(i) + axis];
  point[kTimeAxis] = job.time;
}

constexpr int kFeatureStep = 16;  // features that are computed together
constexpr int kStepVectors = kFeatureStep / kLanes;
constexpr int kPointsAhead = 4;  // whose cells are found together, so that they are fetched in time

inline void prefetch_cells(const float* plane, const PlaneCells& c, int features) {
  for (int f = 0; f < features; f += 64 / int(sizeof(float))) {
    NFC_PREFETCH(plane + c.at + f);
    NFC_PREFETCH(plane + c.at + c.column + f);
    NFC_PREFETCH(plane + c.at + c.row + f);
    NFC_PREFETCH(plane + c.at + c.row + c.column + f);
  }
}

// The cells of a few points in all planes.
struct Located {
  PlaneCells cells[kPointsAhead][kPlanes * kMaxLevels];

  Located(const HexPlaneJob& job, int begin, int count) {
    for (int n = 0; n < count; ++n) {
      float point[4];
      point_of(job, int(job.order[begin + n]), point);
      for (int index = 0; index < kPlanes * job.levels; ++index) {
        cells[n][index] = plane_cells(job, index / kPlanes, index % kPlanes, point);
        prefetch_cells(job.planes[index], cells[n][index], job.features);
      }
    }
  }
};

inline void hexplane_point(const HexPlaneJob& job, int i, const PlaneCells* cells) {
  for (int level = 0; level < job.levels; ++level, cells += kPlanes) {
    float* out = job.out + (size_t(i) * job.levels + level) * job.features;
    for (int f = 0; f < job.features; f += kFeatureStep) {
      Vf product[kStepVectors];
      for (int k = 0; k < kStepVectors; ++k) product[k] = broadcast(1.0f);
      for (int p = 0; p < kPlanes; ++p) {
        const PlaneCells& c = cells[p];
        const float *a = job.planes[kPlanes * level + p] + c.at + f, *b = a + c.row;
        const Vf x = broadcast(c.x.weight), y = broadcast(c.y.weight);
        const Vf w11 = x * y, w10 = y - w11, w01 = x - w11, w00 = (1.0f - x) - w10;
        for (int k = 0; k < kStepVectors; ++k) {
          const int o = k * kLanes;
          const Vf found = w00 * load(a + o) + w01 * load(a + c.column + o) + w10 * load(b + o) +
                           w11 * load(b + c.column + o);
          product[k] = product[k] * found;
        }
      }
      for (int k = 0; k < kStepVectors; ++k) store(out + f + k * kLanes, product[k]);
    }
  }
}

void hexplane(const HexPlaneJob& job, int begin, int end) {
  for (int n = begin; n < end; n += kPointsAhead) {
    const int count = end - n < kPointsAhead ? end - n : kPointsAhead;
    const Located located(job, n, count);
    for (int k = 0; k < count; ++k) hexplane_point(job, int(job.order[n + k]), located.cells[k]);
  }
}

// Gradients of the coordinates, and of the sample of each plane at each point, kept in `v_samples` [6 levels, points,
// F].
inline void hexplane_point_backward(const HexPlaneJob& job, int n, const PlaneCells* cells) {
  const size_t stride = job.sample_stride;
  const int i = int(job.order[n]);
  float v_point[4] = {};
  for (int level = 0; level < job.levels; ++level, cells += kPlanes) {
    const float* v_out = job.v_out + (size_t(i) * job.levels + level) * job.features;
    float* v_samples = job.v_samples + kPlanes * level * stride + size_t(n - job.block_begin) * job.features;
    Vf v_x[kPlanes] = {}, v_y[kPlanes] = {};
    for (int f = 0; f < job.features; f += kLanes) {
      Vf found[kPlanes], slope_x[kPlanes], slope_y[kPlanes];
      for (int p = 0; p < kPlanes; ++p) {
        const PlaneCells& c = cells[p];
        const float* a = job.planes[kPlanes * level + p] + c.at + f;
        const Vf step = load(a + c.column) - load(a), next = load(a + c.row + c.column) - load(a + c.row);
        const Vf low = load(a) + c.x.weight * step, high = load(a + c.row) + c.x.weight * next;
        found[p] = low + c.y.weight * (high - low);
        slope_x[p] = step + c.y.weight * (next - step), slope_y[p] = high - low;
      }
      Vf others[kPlanes];  // the product of the planes before; then of all others
      Vf product = load(v_out + f);
      for (int p = 0; p < kPlanes; ++p) others[p] = product, product = product * found[p];
      product = broadcast(1.0f);
      for (int p = kPlanes - 1; p >= 0; --p) others[p] = others[p] * product, product = product * found[p];
      for (int p = 0; p < kPlanes; ++p) {
        store(v_samples + p * stride + f, others[p]);
        v_x[p] = v_x[p] + others[p] * slope_x[p], v_y[p] = v_y[p] + others[p] * slope_y[p];
      }
    }
    for (int p = 0; p < kPlanes; ++p) {
      v_point[column_axis(p)] += sum_lanes(v_x[p]) * cells[p].x.slope;
      v_point[row_axis(p)] += sum_lanes(v_y[p]) * cells[p].y.slope;
    }
  }
  for (int axis = 0; axis < 3; ++axis) job.v_coords[3 * size_t(i) + axis] = v_point[axis];
}

void hexplane_backward(const HexPlaneJob& job, int begin, int end) {
  for (int n = begin; n < end; n += kPointsAhead) {
    const int count = end - n < kPointsAhead ? end - n : kPointsAhead;
    const Located located(job, n, count);
    for (int k = 0; k < count; ++k) hexplane_point_backward(job, n + k, located.cells[k]);
  }
}

// Adds the gradients of a block of points to one plane, point after point: the sum's order is fixed.
void hexplane_scatter(const HexPlaneJob& job, int index) {
  constexpr int kAhead = 8;
  const float* v_samples = job.v_samples + size_t(index) * job.sample_stride;
  float* v_plane = job.v_planes[index];
  PlaneCells cells[kAhead];
  for (int begin = job.block_begin; begin < job.block_end; begin += kAhead) {
    const int count = job.block_end - begin < kAhead ? job.block_end - begin : kAhead;
    for (int n = 0; n < count; ++n) {
      float point[4];
      point_of(job, int(job.order[begin + n]), point);
      cells[n] = plane_cells(job, index / kPlanes, index % kPlanes, point);
      prefetch_cells(v_plane, cells[n], job.features);
    }
    for (int n = 0; n < count; ++n, v_samples += job.features) {
      const PlaneCells& c = cells[n];
      const float wx = c.x.weight, wy = c.y.weight;
      const float w00 = (1.0f - wx) * (1.0f - wy), w01 = wx * (1.0f - wy), w10 = (1.0f - wx) * wy, w11 = wx * wy;
      float *a = v_plane + c.at, *b = a + c.row;
      for (int f = 0; f < job.features; f += kLanes) {
        const Vf g = load(v_samples + f);
        store(a + f, load(a + f) + w00 * g), store(a + c.column + f, load(a + c.column + f) + w01 * g);
        store(b + f, load(b + f) + w10 * g), store(b + c.column + f, load(b + c.column + f) + w11 * g);
      }
    }
  }
}

// Adds the gradients of a plane's regularisers to those of one of its rows: squares of the differences between
// neighbours along columns and rows, squares of second differences along rows, and the distance from 1.
void plane_regularisers(const PlaneJob& job, int row) {
  const int width = job.columns * job.features, step = job.features;
  const float* p = job.plane + size_t(row) * width;
  float* v = job.v_plane + size_t(row) * width;
  const auto row_at = [&](int k) { return p + ptrdiff_t(k) * width; };  // the row k rows further, if it exists
  const bool has[5] = {row >= 2, row >= 1, true, row + 1 < job.rows, row + 2 < job.rows};
  for (int i = 0; i < width; i += kLanes) {
    const Vf here = load(p + i);
    Vf g = Vf{};
    if (job.tv_columns != 0.0f) {
      if (i >= step) g = g + job.tv_columns * (here - load(p + i - step));
      if (i + step < width) g = g + job.tv_columns * (here - load(p + i + step));
    }
    if (job.tv_rows != 0.0f) {
      if (has[1]) g = g + job.tv_rows * (here - load(row_at(-1) + i));
      if (has[3]) g = g + job.tv_rows * (here - load(row_at(1) + i));
    }
    if (job.smoothness != 0.0f) {  // d_k = p_(k-1) - 2 p_k + p_(k+1): a row is in up to three of them
      if (has[0]) g = g + job.smoothness * (load(row_at(-2) + i) - 2.0f * load(row_at(-1) + i) + here);
      if (has[1] && has[3])
        g = g - (2.0f * job.smoothness) * (load(row_at(-1) + i) - 2.0f * here + load(row_at(1) + i));
      if (has[4]) g = g + job.smoothness * (here - 2.0f * load(row_at(1) + i) + load(row_at(2) + i));
    }
    if (job.sparsity != 0.0f) {
      const Vf one = broadcast(1.0f), zero = Vf{};
      const Vf sign = select(here > one, broadcast(job.sparsity), select(here < one, broadcast(-job.sparsity), zero));
      g = g + sign;
    }
    store(v + i, load(v + i) + g);
  }
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
