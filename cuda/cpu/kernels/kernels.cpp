// All kernels of the CPU core, compiled once per instruction set (CMake gives NFC_ISA and the compiler's options).

#include "adam.inl"
#include "blend_ceiling.inl"
#include "hexplane.inl"
#include "loss.inl"
#include "metrics.inl"
#include "network.inl"
#include "noise.inl"
#include "project.inl"
#include "raster.inl"
#include "table.h"
#include "tiles.inl"

#define NFC_STRING(text) #text
#define NFC_STRING_OF(macro) NFC_STRING(macro)

namespace nfc {
inline namespace NFC_ISA {

constexpr Kernels make_table() {
  Kernels table{};
  table.name = NFC_STRING_OF(NFC_ISA);
  table.project = project;
  table.list_tiles = list_tiles;
  table.raster = raster;
  table.raster_backward = raster_backward;
  table.project_backward = project_backward;
  table.loss_rows = loss_rows;
  table.loss_strip = loss_strip;
  table.loss_gradient = loss_gradient;
  table.bit_loss = bit_loss;
  table.squared_error = squared_error;
  table.similarity = similarity;
  table.adam = adam;
  table.noise = noise;
  table.hexplane = hexplane;
  table.hexplane_backward = hexplane_backward;
  table.hexplane_scatter = hexplane_scatter;
  table.plane_regularisers = plane_regularisers;
  table.network = network;
  table.network_backward = network_backward;
  table.blend_ceiling = blend_ceiling;
  return table;
}

// constexpr, so that nothing of this file runs when the module is loaded: the machine may lack its instructions.
extern const Kernels kernel_table;
constexpr Kernels kernel_table = make_table();

}  // namespace NFC_ISA
}  // namespace nfc
