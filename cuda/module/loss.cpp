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

}  // namespace

void bind_loss(nb::module_& m) {
  nb::class_<LossWeights>(m, "LossWeights")
      .def(nb::init<float, float, float, float, float>(), nb::arg("l1"), nb::arg("mse"), nb::arg("ssim"), nb::arg("ce"),
           nb::arg("ce_eps"));
  m.def("photometric_loss", &loss, nb::arg("rendered"), nb::arg("target"), nb::arg("mask").none(), nb::arg("weights"),
        nb::arg("gradient").noconvert().none());
  m.def("bit_loss", &bit_loss, nb::arg("probabilities"), nb::arg("target"), nb::arg("mask").none(), nb::arg("eps"),
        nb::arg("gradient").noconvert().none());
}
