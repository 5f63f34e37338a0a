// Rendering.

#include <atomic>

#include "../cpu/render.h"
#include "../include/nfc_gs/bits.h"
#include "bindings.h"

namespace {

std::atomic<uint64_t> renderings{0};

// Inputs and results of one rendering; forward and backward take the same object.
struct RenderInputs {
  Floats means, quats, scales, opacities;
  MaybeFloats sh_coeffs, bit_logits, bit_shifts, features, background;
  int sh_degree;
  bool composite_bits;
  Floats viewmat, intrinsics;
  int width, height, left, top, whole_width, whole_height;
  bool antialiased, depth, raw;
  Array<int32_t> radii;
  Floats means2d, out, out_alpha;
  MaybeFloats out_depth;
  uint64_t number = ++renderings;  // no two objects have the same

  nfc::RenderJob job() const {
    nfc::RenderJob j{};
    j.count = axis(means, 0, 2, "means");
    if (width < 1 || height < 1 || size_t(width) > kMaxAxis || size_t(height) > kMaxAxis)
      throw std::invalid_argument("an image has at least one pixel, and not too many");
    const size_t n = size_t(j.count), rows = size_t(height), columns = size_t(width);
    check(means, {n, 3}, "means"), check(quats, {n, 4}, "quats"), check(scales, {n, 3}, "scales");
    check(opacities, {n}, "opacities"), check(viewmat, {4, 4}, "viewmat"), check(intrinsics, {4}, "intrinsics");
    set_color(j, n);
    if (features) {
      j.feature_channels = axis(*features, 1, 2, "features"), j.features = features->data();
      check(features, {n, size_t(j.feature_channels)}, "features");
    }
    if (j.feature_channels > nfc::kMaxChannels || j.color_channels + j.feature_channels + depth > nfc::kMaxChannels ||
        j.color_channels + j.feature_channels + depth < 1)
      throw std::invalid_argument("between 1 and 64 channels can be composited");
    const size_t composited = size_t(j.color_channels + j.feature_channels);
    j.channels = int(composited) + (depth ? 1 : 0);
    for (int i = 0; i < 16; ++i) j.camera.viewmat[i] = viewmat.data()[i];
    for (int i = 0; i < 4; ++i) j.camera.intrinsics[i] = intrinsics.data()[i];
    if (left < 0 || top < 0 || width > whole_width - left || height > whole_height - top)
      throw std::invalid_argument("the camera's part does not fit into its picture");
    j.camera.width = width, j.camera.height = height, j.camera.left = left, j.camera.top = top;
    j.camera.whole_width = whole_width, j.camera.whole_height = whole_height;
    j.antialiased = antialiased, j.depth = depth, j.raw = raw;
    j.means = means.data(), j.quats = quats.data(), j.scales = scales.data(), j.opacities = opacities.data();
    check(background, {composited}, "background");
    j.background = pointer(background);
    check(radii, {n, 2}, "radii"), check(means2d, {n, 2}, "means2d");
    check(out, {rows, columns, composited}, "out"), check(out_alpha, {rows, columns, 1}, "out_alpha");
    check(out_depth, {rows, columns, 1}, "out_depth");
    if (depth != out_depth.has_value()) throw std::invalid_argument("depth and out_depth go together");
    j.radii = radii.data(), j.means2d = means2d.data();
    j.out = out.data(), j.out_alpha = out_alpha.data(), j.out_depth = pointer(out_depth);
    return j;
  }

 private:
  void set_color(nfc::RenderJob& j, size_t n) const {
    if (sh_coeffs && bit_logits) throw std::invalid_argument("colors are sh_coeffs or bit_logits, not both");
    if (bit_logits.has_value() != bit_shifts.has_value())
      throw std::invalid_argument("bit_logits and bit_shifts go together");
    if (composite_bits && !bit_logits) throw std::invalid_argument("composite_bits needs bit_logits");
    if (!sh_coeffs && !bit_logits) return;
    j.color_channels = composite_bits ? nfc::kColorBits : 3;
    if (sh_coeffs) {
      j.sh_bases = axis(*sh_coeffs, 1, 3, "sh_coeffs"), j.sh_coeffs = sh_coeffs->data();
      check(sh_coeffs, {n, size_t(j.sh_bases), 3}, "sh_coeffs");
    } else {
      j.sh_bases = axis(*bit_shifts, 1, 3, "bit_shifts") + 1, j.shift_columns = axis(*bit_shifts, 2, 3, "bit_shifts");
      if (j.shift_columns != 3 && j.shift_columns != nfc::kColorBits)
        throw std::invalid_argument("bit_shifts hold 3 or 24 numbers for each basis");
      check(bit_logits, {n, nfc::kColorBits}, "bit_logits");
      check(bit_shifts, {n, size_t(j.sh_bases - 1), size_t(j.shift_columns)}, "bit_shifts");
      j.bit_logits = bit_logits->data(), j.bit_shifts = bit_shifts->data();
    }
    if (j.sh_bases > nfc::kMaxBases) throw std::invalid_argument("colors have at most 16 bases");
    j.sh_degree = sh_degree;
    if (sh_degree < 0 || sh_degree > 3 || (sh_degree + 1) * (sh_degree + 1) > j.sh_bases)
      throw std::invalid_argument("sh_degree does not fit the colors");
  }
};

// Gradients of the results, which are read, and of the inputs, which are written.
struct RenderGradients {
  MaybeFloats v_out, v_alpha, v_depth;
  MaybeFloats v_means, v_quats, v_scales, v_opacities;
  MaybeFloats v_sh_coeffs, v_bit_logits, v_bit_shifts, v_features, v_viewmat, v_background;
  MaybeFloats v_means2d, v_means2d_abs;
};

// A parameter that the backward pass moves, its moments, and the learning rate of each column.
struct AdamParameter {
  Floats value;
  Moments first, second;
  std::vector<float> rates;

  // `values` is what was rendered.
  nfc::AdamJob job(const Floats& values, const nfc::AdamConstants& constants, const char* name) const {
    if (value.data() != values.data() || value.size() != values.size())
      throw std::invalid_argument(std::string(name) + " is not what was rendered");
    if (values.size() != rates.size() * values.shape(0))
      throw std::invalid_argument(std::string("the rates do not fit ") + name);
    nfc::AdamJob j{};
    set_moments(j, first, second, values.size());
    j.rows = int(values.shape(0)), j.columns = int(rates.size()), j.constants = constants, j.rates = rates.data();
    j.value = value.data();
    return j;
  }
};

// The step of Adam that a backward pass takes instead of writing the gradients of splats.
struct SplatAdam {
  AdamParameter means, quats, log_scales, opacity_logits;
  std::optional<AdamParameter> sh_coeffs, bit_logits, bit_shifts;
  nfc::AdamConstants constants;
  float opacity_weight, scale_weight;

  SplatAdam(AdamParameter means, AdamParameter quats, AdamParameter log_scales, AdamParameter opacity_logits,
            std::optional<AdamParameter> sh_coeffs, std::optional<AdamParameter> bit_logits,
            std::optional<AdamParameter> bit_shifts, const nfc::AdamConstants& constants, float opacity_weight,
            float scale_weight)
      : means(std::move(means)),
        quats(std::move(quats)),
        log_scales(std::move(log_scales)),
        opacity_logits(std::move(opacity_logits)),
        sh_coeffs(std::move(sh_coeffs)),
        bit_logits(std::move(bit_logits)),
        bit_shifts(std::move(bit_shifts)),
        constants(constants),
        opacity_weight(opacity_weight),
        scale_weight(scale_weight) {}

  nfc::SplatAdam job(const RenderInputs& inputs) const {
    if (!inputs.raw || inputs.features) throw std::invalid_argument("adam moves raw splats without features");
    nfc::SplatAdam j{};
    j.means = means.job(inputs.means, constants, "means"), j.quats = quats.job(inputs.quats, constants, "quats");
    j.log_scales = log_scales.job(inputs.scales, constants, "log_scales");
    j.opacity_logits = opacity_logits.job(inputs.opacities, constants, "opacity_logits");
    set(j.sh_coeffs, sh_coeffs, inputs.sh_coeffs, "sh_coeffs");
    set(j.bit_logits, bit_logits, inputs.bit_logits, "bit_logits");
    set(j.bit_shifts, bit_shifts, inputs.bit_shifts, "bit_shifts");
    j.opacity_weight = opacity_weight, j.scale_weight = scale_weight;
    return j;
  }

 private:
  void set(nfc::AdamJob& job, const std::optional<AdamParameter>& parameter, const MaybeFloats& values,
           const char* name) const {
    if (parameter.has_value() != values.has_value())
      throw std::invalid_argument(std::string(name) + " is rendered and not moved, or moved and not rendered");
    if (parameter && values->size()) job = parameter->job(*values, constants, name);
  }
};

// The memory of a rendering, and which one it is.
struct RenderScratch {
  nfc::RenderScratch memory;
  uint64_t number = 0;
};

void forward(RenderScratch& scratch, const RenderInputs& inputs) {
  nfc::RenderJob job = inputs.job();
  nb::gil_scoped_release release;
  scratch.number = 0;  // should memory run out
  scratch.memory.forward(job);
  scratch.number = inputs.number;
}

// Throws unless the gradient of an optional input has its shape, and there is none of an input that there is not. One
// that is `needed` is there.
void check_gradient(const MaybeFloats& gradient, const MaybeFloats& value, bool needed, const char* name) {
  if (gradient && !value) throw std::invalid_argument(std::string(name) + " is the gradient of nothing");
  if (needed && value && !gradient) throw std::invalid_argument(std::string(name) + " is missing");
  bool fits = !gradient || gradient->ndim() == value->ndim();
  for (size_t i = 0; gradient && fits && i < value->ndim(); ++i) fits = gradient->shape(i) == value->shape(i);
  if (!fits)
    throw std::invalid_argument(std::string(name) + " has shape " + shape_of(*gradient) + ", expected " +
                                shape_of(*value));
}

void backward(RenderScratch& scratch, const RenderInputs& inputs, const RenderGradients& g,
              const SplatAdam* adam) {
  nfc::RenderJob job = inputs.job();
  if (scratch.number != inputs.number)
    throw std::invalid_argument("backward takes the inputs of the last forward pass with this scratch, and got others");
  const size_t n = size_t(job.count), rows = size_t(job.camera.height), columns = size_t(job.camera.width);
  const size_t composited = size_t(job.channels - (job.depth ? 1 : 0));
  check(g.v_out, {rows, columns, composited}, "v_out"), check(g.v_alpha, {rows, columns, 1}, "v_alpha");
  if (g.v_depth && !job.depth) throw std::invalid_argument("v_depth is the gradient of nothing");
  check(g.v_depth, {rows, columns, 1}, "v_depth");
  check_gradient(g.v_means, inputs.means, !adam, "v_means"), check_gradient(g.v_quats, inputs.quats, !adam, "v_quats");
  check_gradient(g.v_scales, inputs.scales, !adam, "v_scales");
  check_gradient(g.v_opacities, inputs.opacities, !adam, "v_opacities"), check(g.v_viewmat, {4, 4}, "v_viewmat");
  check(g.v_means2d, {n, 2}, "v_means2d"), check(g.v_means2d_abs, {n, 2}, "v_means2d_abs");
  check_gradient(g.v_sh_coeffs, inputs.sh_coeffs, !adam, "v_sh_coeffs");
  check_gradient(g.v_bit_logits, inputs.bit_logits, !adam, "v_bit_logits");
  check_gradient(g.v_bit_shifts, inputs.bit_shifts, !adam, "v_bit_shifts");
  check_gradient(g.v_features, inputs.features, false, "v_features");
  check_gradient(g.v_background, inputs.background, false, "v_background");
  job.v_bit_logits = pointer(g.v_bit_logits), job.v_bit_shifts = pointer(g.v_bit_shifts);
  job.v_out = pointer(g.v_out), job.v_alpha = pointer(g.v_alpha), job.v_depth = pointer(g.v_depth);
  job.v_means = pointer(g.v_means), job.v_quats = pointer(g.v_quats), job.v_scales = pointer(g.v_scales);
  job.v_opacities = pointer(g.v_opacities), job.v_sh_coeffs = pointer(g.v_sh_coeffs);
  job.v_features = pointer(g.v_features);
  job.v_means2d = pointer(g.v_means2d), job.v_means2d_abs = pointer(g.v_means2d_abs);
  if (adam && (job.v_means || job.v_quats || job.v_scales || job.v_opacities || job.v_sh_coeffs || job.v_bit_logits ||
               job.v_bit_shifts))
    throw std::invalid_argument("gradients that adam takes are not written");
  job.absgrad = job.v_means2d_abs != nullptr;
  if (job.absgrad && job.channels > nfc::kMaxChannelsAtOnce)
    throw std::invalid_argument("absolute gradients need at most 4 channels");
  float *v_viewmat = pointer(g.v_viewmat), *v_background = pointer(g.v_background);
  nfc::SplatAdam step;
  if (adam) step = adam->job(inputs), job.adam = &step;
  nb::gil_scoped_release release;
  scratch.memory.backward(job, v_viewmat, v_background);
}

}  // namespace

void bind_render(nb::module_& m) {
  nb::class_<RenderInputs>(m, "RenderInputs")
      .def(nb::init<Floats, Floats, Floats, Floats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, int,
                    bool, Floats, Floats, int, int, int, int, int, int, bool, bool, bool, Array<int32_t>, Floats,
                    Floats, Floats, MaybeFloats>(),
           array("means"), array("quats"), array("scales"), array("opacities"), array("sh_coeffs").none(),
           array("bit_logits").none(), array("bit_shifts").none(), array("features").none(),
           array("background").none(), nb::arg("sh_degree"), nb::arg("composite_bits"), array("viewmat"),
           array("intrinsics"), nb::arg("width"), nb::arg("height"), nb::arg("left"), nb::arg("top"),
           nb::arg("whole_width"), nb::arg("whole_height"), nb::arg("antialiased"), nb::arg("depth"),
           nb::arg("raw"), array("radii"), array("means2d"), array("out"), array("out_alpha"),
           array("out_depth").none());
  nb::class_<RenderGradients>(m, "RenderGradients")
      .def(nb::init<MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats,
                    MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats,
                    MaybeFloats>(),
           array("v_out").none(), array("v_alpha").none(), array("v_depth").none(),
           array("v_means").none(), array("v_quats").none(), array("v_scales").none(),
           array("v_opacities").none(), array("v_sh_coeffs").none(),
           array("v_bit_logits").none(), array("v_bit_shifts").none(),
           array("v_features").none(), array("v_viewmat").none(),
           array("v_background").none(), array("v_means2d").none(),
           array("v_means2d_abs").none());
  nb::class_<AdamParameter>(m, "AdamParameter")
      .def(nb::init<Floats, Moments, Moments, std::vector<float>>(), array("value"), array("first"), array("second"),
           nb::arg("rates"));
  nb::class_<SplatAdam>(m, "SplatAdam")
      .def(nb::init<AdamParameter, AdamParameter, AdamParameter, AdamParameter, std::optional<AdamParameter>,
                    std::optional<AdamParameter>, std::optional<AdamParameter>, const nfc::AdamConstants&, float,
                    float>(),
           nb::arg("means"), nb::arg("quats"), nb::arg("log_scales"), nb::arg("opacity_logits"),
           nb::arg("sh_coeffs").none(), nb::arg("bit_logits").none(), nb::arg("bit_shifts").none(),
           nb::arg("constants"), nb::arg("opacity_weight"), nb::arg("scale_weight"));
  nb::class_<RenderScratch>(m, "RenderScratch")
      .def(nb::init<>())
      .def("forward", &forward)
      .def("backward", &backward, nb::arg("inputs"), nb::arg("gradients"), nb::arg("adam").none() = nb::none())
      .def_prop_ro("entries", [](const RenderScratch& scratch) { return scratch.memory.entries(); })
      .def("evaluated_pairs", [](const RenderScratch& scratch) { return scratch.memory.evaluated_pairs(); });
}
