// Look-ups of points in the planes of a HexPlane, with gradients, and the regularisers of a plane.
#pragma once

#include "kernels/jobs.h"

namespace nfc {

// Features of points in the planes. Sets `job.order`.
void hexplane(HexPlaneJob& job);

// Its gradients, written to v_planes and v_coords. Sets `job.order` and the scratch pointers.
void hexplane_backward(HexPlaneJob& job);

// Adds the gradient of a plane's regularisers to v_plane.
void plane_regularisers(const PlaneJob& job);

}  // namespace nfc
