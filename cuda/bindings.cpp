// The Python module nfc_gs._core: checks and unpacks arrays, releases the GIL and calls the CPU core.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu/parallel.h"
#include "cpu/render.h"
#include "include/nfc_gs/bits.h"

namespace nb = nanobind;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = Array<float>;
using MaybeFloats = std::optional<Floats>;

template <class T>
T* pointer(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

template <class T>
void check(const Array<T>& array, size_t size, const char* name) {
  if (array.size() != size)
    throw std::invalid_argument(std::string(name) + " holds " + std::to_string(array.size()) + " values, expected " +
                                std::to_string(size));
}

template <class T>
void check(const std::optional<Array<T>>& array, size_t size, const char* name) {
  if (array) check(*array, size, name);
}

// The inputs of one rendering; forward and backward take the same object.
struct Scene {
  Floats means, quats, scales, opacities;
  MaybeFloats sh, bit_logits, bit_shifts, features, background;
  int sh_degree;
  bool composite_bits;
  Floats viewmat, intrinsics;
  int width, height;
  bool antialiased, depth;
  Array<int32_t> radii;
  Floats means2d, out, out_alpha;
  MaybeFloats out_depth;

  nfc::RenderJob job() const {
    nfc::RenderJob j{};
    const size_t n = means.shape(0), pixels = size_t(width) * size_t(height);
    check(means, 3 * n, "means"), check(quats, 4 * n, "quats"), check(scales, 3 * n, "scales");
    check(opacities, n, "opacities"), check(viewmat, 16, "viewmat"), check(intrinsics, 4, "intrinsics");
    j.count = int(n);
    if (sh || bit_logits) set_color(j, n);
    if (features) {
      j.feature_channels = int(features->shape(1)), j.features = features->data();
      check(*features, n * j.feature_channels, "features");
    }
    const int drawn = j.color_channels + j.feature_channels;
    j.channels = drawn + (depth ? 1 : 0);
    if (j.channels > nfc::kMaxChannels || j.channels < 1)
      throw std::invalid_argument("between 1 and 64 channels can be drawn");
    for (int i = 0; i < 16; ++i) j.camera.viewmat[i] = viewmat.data()[i];
    for (int i = 0; i < 4; ++i) j.camera.intrinsics[i] = intrinsics.data()[i];
    j.camera.width = width, j.camera.height = height;
    j.antialiased = antialiased, j.depth = depth;
    j.means = means.data(), j.quats = quats.data(), j.scales = scales.data(), j.opacities = opacities.data();
    check(background, drawn, "background");
    j.background = pointer(background);
    check(radii, 2 * n, "radii"), check(means2d, 2 * n, "means2d");
    check(out, pixels * drawn, "out"), check(out_alpha, pixels, "out_alpha"), check(out_depth, pixels, "out_depth");
    if (depth && !out_depth) throw std::invalid_argument("depth needs out_depth");
    j.radii = radii.data(), j.means2d = means2d.data();
    j.out = out.data(), j.out_alpha = out_alpha.data(), j.out_depth = pointer(out_depth);
    return j;
  }

 private:
  void set_color(nfc::RenderJob& j, size_t n) const {
    if (sh && bit_logits) throw std::invalid_argument("colors are sh_coeffs or bit_logits, not both");
    j.color_channels = 3;
    if (sh) {
      j.sh_bases = int(sh->shape(1)), j.sh = sh->data();
      check(*sh, 3 * n * j.sh_bases, "sh_coeffs");
    } else {
      if (!bit_shifts || bit_shifts->ndim() != 3) throw std::invalid_argument("bit_logits need bit_shifts");
      j.sh_bases = int(bit_shifts->shape(1)) + 1, j.shift_columns = int(bit_shifts->shape(2));
      if (j.shift_columns != 3 && j.shift_columns != nfc::kColorBits)
        throw std::invalid_argument("bit_shifts hold 3 or 24 numbers for each basis");
      check(*bit_logits, nfc::kColorBits * n, "bit_logits");
      check(*bit_shifts, n * (j.sh_bases - 1) * j.shift_columns, "bit_shifts");
      j.bit_logits = bit_logits->data(), j.bit_shifts = bit_shifts->data();
      if (composite_bits) j.color_channels = nfc::kColorBits;
    }
    j.sh_degree = sh_degree;
    if (sh_degree < 0 || sh_degree > 3 || (sh_degree + 1) * (sh_degree + 1) > j.sh_bases)
      throw std::invalid_argument("sh_degree does not fit the colors");
  }
};

struct Gradients {
  MaybeFloats v_out, v_alpha, v_depth;
  Floats v_means, v_quats, v_scales, v_opacities;
  MaybeFloats v_sh, v_bit_logits, v_bit_shifts, v_features, v_viewmat, v_background;
  Floats v_means2d;
  MaybeFloats v_means2d_abs;
};

void forward(nfc::Frame& frame, const Scene& scene) {
  nfc::RenderJob job = scene.job();
  nb::gil_scoped_release release;
  frame.forward(job);
}

void backward(nfc::Frame& frame, const Scene& scene, const Gradients& g) {
  nfc::RenderJob job = scene.job();
  const size_t n = size_t(job.count), pixels = size_t(job.camera.width) * size_t(job.camera.height);
  const size_t drawn = size_t(job.channels - (job.depth ? 1 : 0));
  check(g.v_out, pixels * drawn, "v_out"), check(g.v_alpha, pixels, "v_alpha"), check(g.v_depth, pixels, "v_depth");
  check(g.v_means, 3 * n, "v_means"), check(g.v_quats, 4 * n, "v_quats"), check(g.v_scales, 3 * n, "v_scales");
  check(g.v_opacities, n, "v_opacities"), check(g.v_sh, 3 * n * job.sh_bases, "v_sh");
  check(g.v_features, n * job.feature_channels, "v_features"), check(g.v_viewmat, 16, "v_viewmat");
  check(g.v_background, drawn, "v_background"), check(g.v_means2d, 2 * n, "v_means2d");
  check(g.v_means2d_abs, 2 * n, "v_means2d_abs");
  if (job.sh && !g.v_sh) throw std::invalid_argument("v_sh is missing");
  if (job.bit_logits && !(g.v_bit_logits && g.v_bit_shifts))
    throw std::invalid_argument("v_bit_logits or v_bit_shifts is missing");
  check(g.v_bit_logits, nfc::kColorBits * n, "v_bit_logits");
  check(g.v_bit_shifts, job.bit_logits ? n * (job.sh_bases - 1) * job.shift_columns : 0, "v_bit_shifts");
  job.v_bit_logits = pointer(g.v_bit_logits), job.v_bit_shifts = pointer(g.v_bit_shifts);
  job.v_out = pointer(g.v_out), job.v_alpha = pointer(g.v_alpha),
  job.v_depth = job.depth ? pointer(g.v_depth) : nullptr;
  job.v_means = g.v_means.data(), job.v_quats = g.v_quats.data(), job.v_scales = g.v_scales.data();
  job.v_opacities = g.v_opacities.data(), job.v_sh = pointer(g.v_sh), job.v_features = pointer(g.v_features);
  job.v_means2d = g.v_means2d.data(), job.v_means2d_abs = pointer(g.v_means2d_abs);
  job.absgrad = job.v_means2d_abs != nullptr;
  if (job.absgrad && job.channels > nfc::kMaxChannelsAtOnce)
    throw std::invalid_argument("absolute gradients need at most 4 channels");
  float *v_viewmat = pointer(g.v_viewmat), *v_background = pointer(g.v_background);
  nb::gil_scoped_release release;
  frame.backward(job, v_viewmat, v_background);
}

// 1 / (3 * number of pixels that count)
float inverse_count(const uint8_t* mask, size_t pixels) {
  size_t counted = pixels;
  if (mask) {
    counted = 0;
    for (size_t i = 0; i < pixels; ++i) counted += mask[i] >= 128;
  }
  return counted ? float(1.0 / (3.0 * double(counted))) : 0.0f;
}

// Weights of L1, squared error, 1 - SSIM and cross entropy, and the clipping of the last.
struct LossWeights {
  float l1, mse, ssim, ce, ce_eps;
};

nb::tuple loss(Floats rendered, Array<uint8_t> target, std::optional<Array<uint8_t>> mask, const LossWeights& weights,
               MaybeFloats gradient) {
  nfc::LossJob job{};
  job.height = int(rendered.shape(0)), job.width = int(rendered.shape(1));
  const size_t pixels = size_t(job.height) * size_t(job.width);
  check(rendered, 3 * pixels, "rendered"), check(target, 3 * pixels, "target"), check(mask, pixels, "mask");
  check(gradient, 3 * pixels, "gradient");
  job.rendered = rendered.data(), job.target = target.data(), job.mask = pointer(mask);
  job.l1_weight = weights.l1, job.mse_weight = weights.mse, job.ssim_weight = weights.ssim;
  job.ce_weight = weights.ce, job.ce_eps = weights.ce_eps;
  job.gradient = pointer(gradient);
  job.inv_count = inverse_count(job.mask, pixels);
  nfc::LossValues values;
  {
    nb::gil_scoped_release release;
    values = nfc::photometric_loss(job);
  }
  return nb::make_tuple(values.l1, values.mse, values.dssim, values.ce);
}

double bit_loss(Floats probabilities, Array<uint8_t> target, std::optional<Array<uint8_t>> mask, float eps,
                MaybeFloats gradient) {
  nfc::BitLossJob job{};
  job.height = int(probabilities.shape(0)), job.width = int(probabilities.shape(1));
  const size_t pixels = size_t(job.height) * size_t(job.width);
  check(probabilities, nfc::kColorBits * pixels, "probabilities"), check(target, 3 * pixels, "target");
  check(mask, pixels, "mask"), check(gradient, nfc::kColorBits * pixels, "gradient");
  job.probabilities = probabilities.data(), job.target = target.data(), job.mask = pointer(mask);
  job.eps = eps, job.gradient = pointer(gradient), job.inv_count = inverse_count(job.mask, pixels);
  nb::gil_scoped_release release;
  return nfc::bit_loss(job);
}

void adam(Floats value, Floats gradient, Floats first, Floats second, std::optional<Array<bool>> visible,
          const std::vector<float>& rates, double beta1, double beta2, float epsilon, float correction1,
          float correction2) {
  nfc::AdamJob job{};
  job.columns = int(rates.size());
  if (job.columns == 0 || value.size() % rates.size()) throw std::invalid_argument("rates do not fit the values");
  job.rows = int(value.size() / rates.size());
  check(gradient, value.size(), "gradient"), check(first, value.size(), "first"), check(second, value.size(), "second");
  check(visible, size_t(job.rows), "visible");
  job.value = value.data(), job.gradient = gradient.data(), job.first = first.data(), job.second = second.data();
  job.visible = visible ? reinterpret_cast<const uint8_t*>(visible->data()) : nullptr;
  job.rates = rates.data();
  job.constants = {float(beta1), float(beta2), float(1.0 - beta1), float(1.0 - beta2),
                   epsilon,      correction1,  correction2};
  nb::gil_scoped_release release;
  nfc::adam_step(job);
}

// The planes of a HexPlane, six per level, each [rows, columns, features].
nfc::HexPlaneJob hexplane_job(const std::vector<Floats>& planes, const Floats& coords, float time) {
  nfc::HexPlaneJob job{};
  if (planes.empty() || planes.size() % 6 || planes.size() > 6 * nfc::kMaxLevels)
    throw std::invalid_argument("a HexPlane has six planes per level, and 8 levels at most");
  for (const Floats& plane : planes)
    if (plane.ndim() != 3) throw std::invalid_argument("a plane has three dimensions");
  if (coords.ndim() != 2) throw std::invalid_argument("coords have two dimensions");
  job.levels = int(planes.size() / 6), job.features = int(planes[0].shape(2));
  if (job.features < 1 || job.features % 16) throw std::invalid_argument("features must be a multiple of 16");
  for (size_t i = 0; i < planes.size(); ++i) {
    job.planes[i] = planes[i].data();
    job.rows[i] = int(planes[i].shape(0)), job.columns[i] = int(planes[i].shape(1));
    if (job.rows[i] < 2 || job.columns[i] < 2) throw std::invalid_argument("a plane has at least 2 x 2 cells");
    check(planes[i], size_t(job.rows[i]) * job.columns[i] * job.features, "plane");
  }
  job.count = int(coords.shape(0)), job.coords = coords.data(), job.time = time;
  check(coords, 3 * size_t(job.count), "coords");
  return job;
}

void hexplane(const std::vector<Floats>& planes, Floats coords, float time, Floats out) {
  nfc::HexPlaneJob job = hexplane_job(planes, coords, time);
  check(out, size_t(job.count) * job.levels * job.features, "out");
  job.out = out.data();
  nb::gil_scoped_release release;
  nfc::hexplane(job);
}

void hexplane_backward(const std::vector<Floats>& planes, Floats coords, float time, Floats v_out,
                       const std::vector<Floats>& v_planes, Floats v_coords) {
  nfc::HexPlaneJob job = hexplane_job(planes, coords, time);
  check(v_out, size_t(job.count) * job.levels * job.features, "v_out"), check(v_coords, coords.size(), "v_coords");
  if (v_planes.size() != planes.size()) throw std::invalid_argument("there is a gradient for each plane");
  for (size_t i = 0; i < planes.size(); ++i) {
    check(v_planes[i], planes[i].size(), "v_plane");
    job.v_planes[i] = v_planes[i].data();
  }
  job.v_out = v_out.data(), job.v_coords = v_coords.data();
  nb::gil_scoped_release release;
  nfc::hexplane_backward(job);
}

void plane_regularisers(Floats plane, Floats v_plane, float along_columns, float along_rows, float bend,
                        float from_one) {
  nfc::PlaneJob job{};
  if (plane.ndim() != 3) throw std::invalid_argument("a plane has three dimensions");
  job.rows = int(plane.shape(0)), job.columns = int(plane.shape(1)), job.features = int(plane.shape(2));
  if (job.features < 1 || job.features % 16) throw std::invalid_argument("features must be a multiple of 16");
  check(plane, size_t(job.rows) * job.columns * job.features, "plane"), check(v_plane, plane.size(), "v_plane");
  job.plane = plane.data(), job.v_plane = v_plane.data();
  job.along_columns = along_columns, job.along_rows = along_rows, job.bend = bend, job.from_one = from_one;
  nb::gil_scoped_release release;
  nfc::plane_regularisers(job);
}

// weights: w1, b1, w2, b2, w3, b3.
nfc::NetworkJob network_job(const Floats& x, const std::vector<Floats>& weights) {
  nfc::NetworkJob job{};
  if (weights.size() != 6 || x.ndim() != 2) throw std::invalid_argument("a network has three layers and takes rows");
  job.count = int(x.shape(0)), job.inputs = int(x.shape(1));
  job.width = int(weights[1].size()), job.outputs = int(weights[5].size());
  for (int n : {job.inputs, job.width})
    if (n < 16 || n % 16 || n > nfc::kMaxWidth)
      throw std::invalid_argument("layers are multiples of 16 wide, and at most " + std::to_string(nfc::kMaxWidth));
  if (job.outputs < 1 || job.outputs > nfc::kMaxWidth) throw std::invalid_argument("too many or no outputs");
  const size_t width = size_t(job.width);
  check(x, size_t(job.count) * job.inputs, "x"), check(weights[0], width * job.inputs, "w1");
  check(weights[2], width * width, "w2"), check(weights[3], width, "b2"), check(weights[4], width * job.outputs, "w3");
  job.x = x.data(), job.w1 = weights[0].data(), job.b1 = weights[1].data(), job.w2 = weights[2].data();
  job.b2 = weights[3].data(), job.w3 = weights[4].data(), job.b3 = weights[5].data();
  return job;
}

void network(Floats x, const std::vector<Floats>& weights, Floats out) {
  nfc::NetworkJob job = network_job(x, weights);
  check(out, size_t(job.count) * job.outputs, "out");
  job.out = out.data();
  nb::gil_scoped_release release;
  nfc::network(job);
}

void network_backward(Floats x, const std::vector<Floats>& weights, Floats v_out, Floats v_x, Floats v_weights) {
  nfc::NetworkJob job = network_job(x, weights);
  size_t size = 0;
  for (const Floats& w : weights) size += w.size();
  check(v_out, size_t(job.count) * job.outputs, "v_out"), check(v_x, x.size(), "v_x");
  check(v_weights, size, "v_weights");
  job.v_out = v_out.data(), job.v_x = v_x.data();
  nb::gil_scoped_release release;
  nfc::network_backward(job, v_weights.data());
}

void mcmc_noise(Floats means, Floats quats, Floats log_scales, Floats opacity_logits, float strength, float sharpness,
                float threshold, uint64_t seed, uint64_t step) {
  const size_t n = means.shape(0);
  check(means, 3 * n, "means"), check(quats, 4 * n, "quats"), check(log_scales, 3 * n, "log_scales");
  check(opacity_logits, n, "opacity_logits");
  nb::gil_scoped_release release;
  nfc::mcmc_noise(int(n), means.data(), quats.data(), log_scales.data(), opacity_logits.data(), strength, sharpness,
                  threshold, seed, step);
}

}  // namespace

NB_MODULE(_core, m) {
  // Arrays that are written to are marked noconvert: a converted copy would swallow the result.
  nb::set_leak_warnings(false);  // frames may live in autograd graphs until the process ends
  nb::class_<Scene>(m, "Scene")
      .def(nb::init<Floats, Floats, Floats, Floats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, int,
                    bool, Floats, Floats, int, int, bool, bool, Array<int32_t>, Floats, Floats, Floats, MaybeFloats>(),
           nb::arg("means"), nb::arg("quats"), nb::arg("scales"), nb::arg("opacities"), nb::arg("sh").none(),
           nb::arg("bit_logits").none(), nb::arg("bit_shifts").none(), nb::arg("features").none(),
           nb::arg("background").none(), nb::arg("sh_degree"), nb::arg("composite_bits"), nb::arg("viewmat"),
           nb::arg("intrinsics"), nb::arg("width"), nb::arg("height"), nb::arg("antialiased"), nb::arg("depth"),
           nb::arg("radii").noconvert(), nb::arg("means2d").noconvert(), nb::arg("out").noconvert(),
           nb::arg("out_alpha").noconvert(), nb::arg("out_depth").noconvert().none());
  nb::class_<Gradients>(m, "Gradients")
      .def(nb::init<MaybeFloats, MaybeFloats, MaybeFloats, Floats, Floats, Floats, Floats, MaybeFloats, MaybeFloats,
                    MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, Floats, MaybeFloats>(),
           nb::arg("v_out").none(), nb::arg("v_alpha").none(), nb::arg("v_depth").none(),
           nb::arg("v_means").noconvert(), nb::arg("v_quats").noconvert(), nb::arg("v_scales").noconvert(),
           nb::arg("v_opacities").noconvert(), nb::arg("v_sh").noconvert().none(),
           nb::arg("v_bit_logits").noconvert().none(), nb::arg("v_bit_shifts").noconvert().none(),
           nb::arg("v_features").noconvert().none(), nb::arg("v_viewmat").noconvert().none(),
           nb::arg("v_background").noconvert().none(), nb::arg("v_means2d").noconvert(),
           nb::arg("v_means2d_abs").noconvert().none());
  nb::class_<nfc::Frame>(m, "Frame")
      .def(nb::init<>())
      .def("forward", &forward)
      .def("backward", &backward)
      .def_prop_ro("entries", &nfc::Frame::entries)
      .def("evaluated_pairs", &nfc::Frame::evaluated_pairs);
  nb::class_<LossWeights>(m, "LossWeights")
      .def(nb::init<float, float, float, float, float>(), nb::arg("l1"), nb::arg("mse"), nb::arg("ssim"), nb::arg("ce"),
           nb::arg("ce_eps"));
  m.def("photometric_loss", &loss, nb::arg("rendered"), nb::arg("target"), nb::arg("mask").none(), nb::arg("weights"),
        nb::arg("gradient").noconvert().none());
  m.def("bit_loss", &bit_loss, nb::arg("probabilities"), nb::arg("target"), nb::arg("mask").none(), nb::arg("eps"),
        nb::arg("gradient").noconvert().none());
  m.def("adam", &adam, nb::arg("value").noconvert(), nb::arg("gradient"), nb::arg("first").noconvert(),
        nb::arg("second").noconvert(), nb::arg("visible").none(), nb::arg("rates"), nb::arg("beta1"), nb::arg("beta2"),
        nb::arg("epsilon"), nb::arg("correction1"), nb::arg("correction2"));
  m.def("hexplane", &hexplane, nb::arg("planes"), nb::arg("coords"), nb::arg("time"), nb::arg("out").noconvert());
  m.def("hexplane_backward", &hexplane_backward, nb::arg("planes"), nb::arg("coords"), nb::arg("time"),
        nb::arg("v_out"), nb::arg("v_planes").noconvert(), nb::arg("v_coords").noconvert());
  m.def("plane_regularisers", &plane_regularisers, nb::arg("plane"), nb::arg("v_plane").noconvert(),
        nb::arg("along_columns"), nb::arg("along_rows"), nb::arg("bend"), nb::arg("from_one"));
  m.def("network", &network, nb::arg("x"), nb::arg("weights"), nb::arg("out").noconvert());
  m.def("network_backward", &network_backward, nb::arg("x"), nb::arg("weights"), nb::arg("v_out"),
        nb::arg("v_x").noconvert(), nb::arg("v_weights").noconvert());
  m.def("mcmc_noise", &mcmc_noise, nb::arg("means").noconvert(), nb::arg("quats"), nb::arg("log_scales"),
        nb::arg("opacity_logits"), nb::arg("strength"), nb::arg("sharpness"), nb::arg("threshold"), nb::arg("seed"),
        nb::arg("step"));
  m.def("place_values", [] {
    std::vector<float> values;
    for (int bit = 0; bit < nfc::kBits; ++bit) values.push_back(nfc::place_value(bit));
    return values;
  });
  m.def("blend_ceiling", [](int splats, int repeats) {
    nb::gil_scoped_release release;
    return nfc::kernels().blend_ceiling(splats, repeats);
  });
  m.def("stage_seconds", [] {
    nb::dict seconds;
    for (int stage = 0; stage < nfc::kStages; ++stage)
      seconds[nfc::kStageNames[stage]] = nfc::stage_seconds(nfc::Stage(stage));
    return seconds;
  });
  m.def("set_threads", &nfc::set_thread_count);
  m.def("threads", &nfc::thread_count);
  m.def("instruction_set", [] { return std::string(nfc::kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return nfc::use_kernels(name.c_str()); });
}
