// The kernels of one instruction set as a table of functions, through which the rest of the core calls them.
// Nothing here may use the standard library's templates (see the note on namespaces in numeric.h).
#pragma once

#include "jobs.h"

namespace nfc {

struct Kernels {
  const char* name;  // of the instruction set
  void (*project)(const RenderJob&, int begin, int end);
  // Lists the tiles that `count` Gaussians touch, Gaussian after Gaussian: `first` gets the index in `list` of each
  // Gaussian's first tile, and `histogram` counts the entries of each tile. Returns the length of the list.
  size_t (*list_tiles)(const RenderJob&, const uint32_t* splats, int count, uint32_t* first, uint32_t* histogram,
                       uint32_t* list);
  void (*raster)(const RenderJob&, int tile);
  void (*raster_backward)(const RenderJob&, int tile);
  void (*project_backward)(const RenderJob&, int block);
  void (*loss_rows)(const LossJob&, int row);
  void (*loss_strip)(const LossJob&, int strip);
  void (*loss_gradient)(const LossJob&, int row);
  void (*bit_loss)(const BitLossJob&, int row);
  double (*squared_error)(const SimilarityJob&, int begin, int end);
  double (*similarity)(const SimilarityJob&, int begin, int end, double* ring);
  void (*adam)(const AdamJob&, int begin, int end);
  void (*noise)(const NoiseJob&, int begin, int end);
  void (*hexplane)(const HexPlaneJob&, int begin, int end);
  void (*hexplane_backward)(const HexPlaneJob&, int begin, int end);
  void (*hexplane_scatter)(const HexPlaneJob&, int plane);
  void (*plane_regularisers)(const PlaneJob&, int row);
  void (*network)(const NetworkJob&, int tile);
  void (*network_backward)(const NetworkJob&, int tile, float* partial);
  float (*blend_ceiling)(int splats, int repeats);
};

}  // namespace nfc
