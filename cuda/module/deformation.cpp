// The heavy parts of deformations: the look-up in a HexPlane, its regularisers, and the network.

#include "../cpu/hexplane.h"
#include "../cpu/network.h"
#include "bindings.h"

namespace {

// The planes of a HexPlane, six per level, each [rows, columns, features].
nfc::HexPlaneJob hexplane_job(const std::vector<Floats>& planes, const Floats& coords, float time) {
  nfc::HexPlaneJob job{};
  if (planes.empty() || planes.size() % 6 || planes.size() > 6 * nfc::kMaxLevels)
    throw std::invalid_argument("a HexPlane has six planes per level, and 8 levels at most");
  job.levels = int(planes.size() / 6), job.features = axis(planes[0], 2, 3, "plane");
  if (job.features < 1 || job.features % 16) throw std::invalid_argument("features must be a multiple of 16");
  for (size_t i = 0; i < planes.size(); ++i) {
    job.planes[i] = planes[i].data();
    job.rows[i] = axis(planes[i], 0, 3, "plane"), job.columns[i] = axis(planes[i], 1, 3, "plane");
    if (job.rows[i] < 2 || job.columns[i] < 2) throw std::invalid_argument("a plane has at least 2 x 2 cells");
    check(planes[i], {size_t(job.rows[i]), size_t(job.columns[i]), size_t(job.features)}, "plane");
  }
  job.count = axis(coords, 0, 2, "coords"), job.coords = coords.data(), job.time = time;
  check(coords, {size_t(job.count), 3}, "coords");
  return job;
}

void hexplane(const std::vector<Floats>& planes, Floats coords, float time, Floats out) {
  nfc::HexPlaneJob job = hexplane_job(planes, coords, time);
  check(out, {size_t(job.count), size_t(job.levels) * size_t(job.features)}, "out");
  job.out = out.data();
  nb::gil_scoped_release release;
  nfc::hexplane(job);
}

void hexplane_backward(const std::vector<Floats>& planes, Floats coords, float time, Floats v_out,
                       const std::vector<Floats>& v_planes, Floats v_coords) {
  nfc::HexPlaneJob job = hexplane_job(planes, coords, time);
  check(v_out, {size_t(job.count), size_t(job.levels) * size_t(job.features)}, "v_out");
  check(v_coords, {size_t(job.count), 3}, "v_coords");
  if (v_planes.size() != planes.size()) throw std::invalid_argument("there is a gradient for each plane");
  for (size_t i = 0; i < planes.size(); ++i) {
    check(v_planes[i], {size_t(job.rows[i]), size_t(job.columns[i]), size_t(job.features)}, "v_plane");
    job.v_planes[i] = v_planes[i].data();
  }
  job.v_out = v_out.data(), job.v_coords = v_coords.data();
  nb::gil_scoped_release release;
  nfc::hexplane_backward(job);
}

void plane_regularisers(Floats plane, Floats v_plane, float tv_columns, float tv_rows, float smoothness,
                        float sparsity) {
  nfc::PlaneJob job{};
  job.rows = axis(plane, 0, 3, "plane"), job.columns = axis(plane, 1, 3, "plane");
  job.features = axis(plane, 2, 3, "plane");
  if (job.features < 1 || job.features % 16) throw std::invalid_argument("features must be a multiple of 16");
  if (size_t(job.columns) * size_t(job.features) > kMaxAxis) throw std::invalid_argument("plane is too wide");
  check(v_plane, {size_t(job.rows), size_t(job.columns), size_t(job.features)}, "v_plane");
  job.plane = plane.data(), job.v_plane = v_plane.data();
  job.tv_columns = tv_columns, job.tv_rows = tv_rows, job.smoothness = smoothness, job.sparsity = sparsity;
  nb::gil_scoped_release release;
  nfc::plane_regularisers(job);
}

// weights: w1, b1, w2, b2, w3, b3.
nfc::NetworkJob network_job(const Floats& x, const std::vector<Floats>& weights) {
  nfc::NetworkJob job{};
  if (weights.size() != 6) throw std::invalid_argument("a network has three layers, each with weights and biases");
  job.count = axis(x, 0, 2, "x"), job.inputs = axis(x, 1, 2, "x");
  job.width = axis(weights[1], 0, 1, "b1"), job.outputs = axis(weights[5], 0, 1, "b3");
  for (int n : {job.inputs, job.width})
    if (n < 16 || n % 16 || n > nfc::kMaxWidth)
      throw std::invalid_argument("layers are multiples of 16 wide, and at most " + std::to_string(nfc::kMaxWidth));
  if (job.outputs < 1 || job.outputs > nfc::kMaxWidth) throw std::invalid_argument("too many or no outputs");
  const size_t width = size_t(job.width);
  check(weights[0], {width, size_t(job.inputs)}, "w1"), check(weights[2], {width, width}, "w2");
  check(weights[3], {width}, "b2"), check(weights[4], {size_t(job.outputs), width}, "w3");
  job.x = x.data(), job.w1 = weights[0].data(), job.b1 = weights[1].data(), job.w2 = weights[2].data();
  job.b2 = weights[3].data(), job.w3 = weights[4].data(), job.b3 = weights[5].data();
  return job;
}

void network(Floats x, const std::vector<Floats>& weights, Floats out) {
  nfc::NetworkJob job = network_job(x, weights);
  check(out, {size_t(job.count), size_t(job.outputs)}, "out");
  job.out = out.data();
  nb::gil_scoped_release release;
  nfc::network(job);
}

void network_backward(Floats x, const std::vector<Floats>& weights, Floats v_out, Floats v_x, Floats v_weights) {
  nfc::NetworkJob job = network_job(x, weights);
  size_t size = 0;
  for (const Floats& w : weights) size += w.size();
  check(v_out, {size_t(job.count), size_t(job.outputs)}, "v_out");
  check(v_x, {size_t(job.count), size_t(job.inputs)}, "v_x"), check(v_weights, {size}, "v_weights");
  job.v_out = v_out.data(), job.v_x = v_x.data();
  nb::gil_scoped_release release;
  nfc::network_backward(job, v_weights.data());
}

}  // namespace

void bind_deformation(nb::module_& m) {
  m.def("hexplane", &hexplane, array("planes"), array("coords"), nb::arg("time"), array("out"));
  m.def("hexplane_backward", &hexplane_backward, array("planes"), array("coords"), nb::arg("time"),
        array("v_out"), array("v_planes"), array("v_coords"));
  m.def("plane_regularisers", &plane_regularisers, array("plane"), array("v_plane"),
        nb::arg("tv_columns"), nb::arg("tv_rows"), nb::arg("smoothness"), nb::arg("sparsity"));
  m.def("network", &network, array("x"), array("weights"), array("out"));
  m.def("network_backward", &network_backward, array("x"), array("weights"), array("v_out"),
        array("v_x"), array("v_weights"));
}
