// Which tiles each splat of a list touches (include/nfc_gs/tiles.h).
#pragma once

#include "simd.h"
#include "jobs.h"
#include "../../include/nfc_gs/tiles.h"

namespace nfc {
inline namespace NFC_ISA {
namespace {

size_t list_tiles(const RenderJob& job, const uint32_t* splats, int count, uint32_t* first, uint32_t* histogram,
                         uint32_t* list) {
  uint32_t* next = list;
  for (int k = 0; k < count; ++k) {
    if (k + 8 < count) NFC_PREFETCH(job.records + splats[k + 8]);
    first[k] = uint32_t(next - list);
    for (TileRows rows(job.records[splats[k]]); rows.next();) {
      const int row = (rows.row - job.tile_top) * job.tiles_x - job.tile_left;
      for (int column = rows.column_begin; column < rows.column_end; ++column) {
        const uint32_t tile = uint32_t(row + column);
        *next++ = tile, ++histogram[tile];
      }
    }
  }
  return size_t(next - list);
}

}  // namespace
}  // namespace NFC_ISA
}  // namespace nfc
