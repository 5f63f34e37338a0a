// From Gaussians in the order of depth to the splats of each tile. Two sorts, both torch's: first N depths, then M tile
// indices of 16 bits (32 only for images of more than 32767 tiles), stable, so that depths need not be sorted again.

#include "../include/nfc_gs/tiles.h"
#include "render.h"

namespace nfc {

constexpr int kThreads = 256;

// The index of the first value of an ascending array that is larger than `value`.
NFC_HD int upper_bound(const long long* values, int count, long long value) {
  int low = 0;
  while (count > 0) {
    const int half = count / 2;
    const bool right = values[low + half] <= value;
    low = right ? low + half + 1 : low;
    count = right ? count - half - 1 : half;
  }
  return low;
}

NFC_HD int slot_tile(const RenderArgs& args, int slot) {
  return args.wide_tiles ? ((const int*)args.slot_tile)[slot] : ((const short*)args.slot_tile)[slot];
}

}  // namespace nfc

// One thread per entry, not per Gaussian: the entries of a splat over the whole image are written by many threads
// instead of one. A thread finds its Gaussian by bisection, in which neighbouring threads read the same values, and its
// tile by going down the rows.
NFC_KERNEL(write_entries, nfc::RenderArgs, nfc::kThreads) {
  using namespace nfc;
  const long long entry = (long long)blockIdx.x * kThreads + threadIdx.x;
  if (entry >= args.entries) return;
  const int rank = upper_bound(args.entry_end, args.count, entry);
  const int splat = int(args.order[rank]);
  const long long begin = args.entry_end[rank] - args.touched[splat];
  if (entry == begin) args.entry_begin[splat] = begin;
  const SplatRecord record = args.records[splat];
  int left = int(entry - begin);
  TileRows rows(record);
  while (rows.next()) {
    const int columns = max(rows.column_end - rows.column_begin, 0);
    if (left < columns) break;
    left -= columns;
  }
  // project.cu has counted the same tiles (`UNFUSED` of nfc_gs/ops/nvrtc.py); if it ever had not, nothing may be
  // written out of bounds.
  const int row = rows.row - args.tile_top, column = rows.column_begin + left - args.tile_left;
  const int tile = min(row * args.tiles_x + column, args.tiles_x * args.tiles_y - 1);
  args.entry_splat[entry] = splat;
  if (args.wide_tiles) {
    ((int*)args.entry_tile)[entry] = tile;
  } else {
    ((short*)args.entry_tile)[entry] = short(tile);
  }
}

// One thread per slot, and one more for the tiles after the last: tile_begin is written where the tile changes.
NFC_KERNEL(find_tiles, nfc::RenderArgs, nfc::kThreads) {
  using namespace nfc;
  const long long slot = (long long)blockIdx.x * kThreads + threadIdx.x;
  if (slot > args.entries) return;
  const bool last = slot == args.entries;
  if (!last) args.slot_splat[slot] = args.entry_splat[args.slot_entry[slot]];
  const int before = slot == 0 ? -1 : slot_tile(args, int(slot) - 1);
  const int tile = last ? args.tiles_x * args.tiles_y : slot_tile(args, int(slot));
  for (int t = before + 1; t <= tile; ++t) args.tile_begin[t] = int(slot);
}
