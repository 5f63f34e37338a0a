// Rendering.

#include "../cpu/render.h"
#include "../include/nfc_gs/bits.h"
#include "bindings.h"

namespace {

// Inputs and results of one rendering; forward and backward take the same object.
struct RenderInputs {
  Floats means, quats, scales, opacities;
  MaybeFloats sh_coeffs, bit_logits, bit_shifts, features, background;
  int sh_degree;
  bool composite_bits;
  Floats viewmat, intrinsics;
  int width, height, left, top, whole_width, whole_height;
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
    if (sh_coeffs || bit_logits) set_color(j, n);
    if (features) {
      j.feature_channels = int(features->shape(1)), j.features = features->data();
      check(*features, n * j.feature_channels, "features");
    }
    const int composited = j.color_channels + j.feature_channels;
    j.channels = composited + (depth ? 1 : 0);
    if (j.channels > nfc::kMaxChannels || j.channels < 1)
      throw std::invalid_argument("between 1 and 64 channels can be composited");
    for (int i = 0; i < 16; ++i) j.camera.viewmat[i] = viewmat.data()[i];
    for (int i = 0; i < 4; ++i) j.camera.intrinsics[i] = intrinsics.data()[i];
    if (width < 1 || height < 1 || left < 0 || top < 0 || width > whole_width - left || height > whole_height - top)
      throw std::invalid_argument("the camera's part does not fit into its picture");
    j.camera.width = width, j.camera.height = height, j.camera.left = left, j.camera.top = top;
    j.camera.whole_width = whole_width, j.camera.whole_height = whole_height;
    j.antialiased = antialiased, j.depth = depth;
    j.means = means.data(), j.quats = quats.data(), j.scales = scales.data(), j.opacities = opacities.data();
    check(background, composited, "background");
    j.background = pointer(background);
    check(radii, 2 * n, "radii"), check(means2d, 2 * n, "means2d");
    check(out, pixels * composited, "out"), check(out_alpha, pixels, "out_alpha");
    check(out_depth, pixels, "out_depth");
    if (depth && !out_depth) throw std::invalid_argument("depth needs out_depth");
    j.radii = radii.data(), j.means2d = means2d.data();
    j.out = out.data(), j.out_alpha = out_alpha.data(), j.out_depth = pointer(out_depth);
    return j;
  }

 private:
  void set_color(nfc::RenderJob& j, size_t n) const {
    if (sh_coeffs && bit_logits) throw std::invalid_argument("colors are sh_coeffs or bit_logits, not both");
    j.color_channels = 3;
    if (sh_coeffs) {
      j.sh_bases = int(sh_coeffs->shape(1)), j.sh_coeffs = sh_coeffs->data();
      check(*sh_coeffs, 3 * n * j.sh_bases, "sh_coeffs");
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

// Gradients of the results, which are read, and of the inputs, which are written.
struct RenderGradients {
  MaybeFloats v_out, v_alpha, v_depth;
  Floats v_means, v_quats, v_scales, v_opacities;
  MaybeFloats v_sh_coeffs, v_bit_logits, v_bit_shifts, v_features, v_viewmat, v_background;
  Floats v_means2d;
  MaybeFloats v_means2d_abs;
};

void forward(nfc::RenderScratch& scratch, const RenderInputs& inputs) {
  nfc::RenderJob job = inputs.job();
  nb::gil_scoped_release release;
  scratch.forward(job);
}

void backward(nfc::RenderScratch& scratch, const RenderInputs& inputs, const RenderGradients& g) {
  nfc::RenderJob job = inputs.job();
  const size_t n = size_t(job.count), pixels = size_t(job.camera.width) * size_t(job.camera.height);
  const size_t composited = size_t(job.channels - (job.depth ? 1 : 0));
  check(g.v_out, pixels * composited, "v_out"), check(g.v_alpha, pixels, "v_alpha");
  check(g.v_depth, pixels, "v_depth");
  check(g.v_means, 3 * n, "v_means"), check(g.v_quats, 4 * n, "v_quats"), check(g.v_scales, 3 * n, "v_scales");
  check(g.v_opacities, n, "v_opacities"), check(g.v_sh_coeffs, 3 * n * job.sh_bases, "v_sh_coeffs");
  check(g.v_features, n * job.feature_channels, "v_features"), check(g.v_viewmat, 16, "v_viewmat");
  check(g.v_background, composited, "v_background"), check(g.v_means2d, 2 * n, "v_means2d");
  check(g.v_means2d_abs, 2 * n, "v_means2d_abs");
  if (job.sh_coeffs && !g.v_sh_coeffs) throw std::invalid_argument("v_sh_coeffs is missing");
  if (job.bit_logits && !(g.v_bit_logits && g.v_bit_shifts))
    throw std::invalid_argument("v_bit_logits or v_bit_shifts is missing");
  check(g.v_bit_logits, nfc::kColorBits * n, "v_bit_logits");
  check(g.v_bit_shifts, job.bit_logits ? n * (job.sh_bases - 1) * job.shift_columns : 0, "v_bit_shifts");
  job.v_bit_logits = pointer(g.v_bit_logits), job.v_bit_shifts = pointer(g.v_bit_shifts);
  job.v_out = pointer(g.v_out), job.v_alpha = pointer(g.v_alpha);
  job.v_depth = job.depth ? pointer(g.v_depth) : nullptr;
  job.v_means = g.v_means.data(), job.v_quats = g.v_quats.data(), job.v_scales = g.v_scales.data();
  job.v_opacities = g.v_opacities.data(), job.v_sh_coeffs = pointer(g.v_sh_coeffs);
  job.v_features = pointer(g.v_features);
  job.v_means2d = g.v_means2d.data(), job.v_means2d_abs = pointer(g.v_means2d_abs);
  job.absgrad = job.v_means2d_abs != nullptr;
  if (job.absgrad && job.channels > nfc::kMaxChannelsAtOnce)
    throw std::invalid_argument("absolute gradients need at most 4 channels");
  float *v_viewmat = pointer(g.v_viewmat), *v_background = pointer(g.v_background);
  nb::gil_scoped_release release;
  scratch.backward(job, v_viewmat, v_background);
}

}  // namespace

void bind_render(nb::module_& m) {
  nb::class_<RenderInputs>(m, "RenderInputs")
      .def(nb::init<Floats, Floats, Floats, Floats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, int,
                    bool, Floats, Floats, int, int, int, int, int, int, bool, bool, Array<int32_t>, Floats, Floats, Floats, MaybeFloats>(),
           nb::arg("means"), nb::arg("quats"), nb::arg("scales"), nb::arg("opacities"), nb::arg("sh_coeffs").none(),
           nb::arg("bit_logits").none(), nb::arg("bit_shifts").none(), nb::arg("features").none(),
           nb::arg("background").none(), nb::arg("sh_degree"), nb::arg("composite_bits"), nb::arg("viewmat"),
           nb::arg("intrinsics"), nb::arg("width"), nb::arg("height"), nb::arg("left"), nb::arg("top"),
           nb::arg("whole_width"), nb::arg("whole_height"), nb::arg("antialiased"), nb::arg("depth"),
           nb::arg("radii").noconvert(), nb::arg("means2d").noconvert(), nb::arg("out").noconvert(),
           nb::arg("out_alpha").noconvert(), nb::arg("out_depth").noconvert().none());
  nb::class_<RenderGradients>(m, "RenderGradients")
      .def(nb::init<MaybeFloats, MaybeFloats, MaybeFloats, Floats, Floats, Floats, Floats, MaybeFloats, MaybeFloats,
                    MaybeFloats, MaybeFloats, MaybeFloats, MaybeFloats, Floats, MaybeFloats>(),
           nb::arg("v_out").none(), nb::arg("v_alpha").none(), nb::arg("v_depth").none(),
           nb::arg("v_means").noconvert(), nb::arg("v_quats").noconvert(), nb::arg("v_scales").noconvert(),
           nb::arg("v_opacities").noconvert(), nb::arg("v_sh_coeffs").noconvert().none(),
           nb::arg("v_bit_logits").noconvert().none(), nb::arg("v_bit_shifts").noconvert().none(),
           nb::arg("v_features").noconvert().none(), nb::arg("v_viewmat").noconvert().none(),
           nb::arg("v_background").noconvert().none(), nb::arg("v_means2d").noconvert(),
           nb::arg("v_means2d_abs").noconvert().none());
  nb::class_<nfc::RenderScratch>(m, "RenderScratch")
      .def(nb::init<>())
      .def("forward", &forward)
      .def("backward", &backward)
      .def_prop_ro("entries", &nfc::RenderScratch::entries)
      .def("evaluated_pairs", &nfc::RenderScratch::evaluated_pairs);
}
