// The photometric losses.

#include "../cpu/loss.h"
#include "../include/nfc_gs/bits.h"
#include "bindings.h"

namespace {

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
  job.height = axis(rendered, 0, 3, "rendered"), job.width = axis(rendered, 1, 3, "rendered");
  const size_t rows = size_t(job.height), columns = size_t(job.width), pixels = rows * columns;
  check(rendered, {rows, columns, 3}, "rendered"), check(target, {rows, columns, 3}, "target");
  check(mask, {rows, columns}, "mask"), check(gradient, {rows, columns, 3}, "gradient");
  if (columns > kMaxAxis / 3) throw std::invalid_argument("rendered is too wide");  // its values are counted in ints
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
  job.height = axis(probabilities, 0, 3, "probabilities"), job.width = axis(probabilities, 1, 3, "probabilities");
  const size_t rows = size_t(job.height), columns = size_t(job.width), pixels = rows * columns;
  check(probabilities, {rows, columns, nfc::kColorBits}, "probabilities"), check(target, {rows, columns, 3}, "target");
  check(mask, {rows, columns}, "mask"), check(gradient, {rows, columns, nfc::kColorBits}, "gradient");
  job.probabilities = probabilities.data(), job.target = target.data(), job.mask = pointer(mask);
  job.eps = eps, job.gradient = pointer(gradient), job.inv_count = inverse_count(job.mask, pixels);
  nb::gil_scoped_release release;
  return nfc::bit_loss(job);
}

}  // namespace

void bind_loss(nb::module_& m) {
  nb::class_<LossWeights>(m, "LossWeights")
      .def(nb::init<float, float, float, float, float>(), nb::arg("l1"), nb::arg("mse"), nb::arg("ssim"), nb::arg("ce"),
           nb::arg("ce_eps"));
  m.def("photometric_loss", &loss, array("rendered"), array("target"), array("mask").none(), nb::arg("weights"),
        array("gradient").none());
  m.def("bit_loss", &bit_loss, array("probabilities"), array("target"), array("mask").none(), nb::arg("eps"),
        array("gradient").none());
}
