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

struct Entry {
  int splat, tile;
};

// A thread finds its Gaussian by bisection, in which neighbouring threads read the same values, and its tile by going
// down the rows. Beyond the last entry the tile is that after the last, so that its sort leaves the rest at the end.
NFC_HD Entry find_entry(const RenderArgs& args, long long entry) {
  const int tiles = args.tiles_x * args.tiles_y;
  if (entry >= args.entry_end[args.count - 1]) return {0, tiles};
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
  return {splat, min(row * args.tiles_x + column, tiles - 1)};
}

// Splats of a bucket, for so many entries; `bucket_size` of nfc_gs/rendering/cuda_backend.py is the same.
NFC_HD int bucket_size(const RenderArgs& args, int entries) {
  int size = args.smallest_bucket;
  while (size < args.largest_bucket && entries / (2 * size) >= args.backward_warps) size *= 2;
  return size;
}

}  // namespace nfc

// One thread per entry, not per Gaussian: the entries of a splat over the whole image are written by many threads
// instead of one.
NFC_KERNEL(write_entries, nfc::RenderArgs, nfc::kThreads) {
  using namespace nfc;
  const long long at = (long long)blockIdx.x * kThreads + threadIdx.x;
  if (at >= args.entries) return;
  const Entry entry = find_entry(args, at);
  args.entry_splat[at] = entry.splat;
  if (args.wide_tiles) {
    ((int*)args.entry_tile)[at] = entry.tile;
  } else {
    ((short*)args.entry_tile)[at] = short(entry.tile);
  }
}

// One thread per slot, and one more for the tiles after the last: tile_begin is written where the tile changes. Slots of
// the tile beyond the last are those that no entry takes.
NFC_KERNEL(find_tiles, nfc::RenderArgs, nfc::kThreads) {
  using namespace nfc;
  const long long slot = (long long)blockIdx.x * kThreads + threadIdx.x;
  if (slot > args.entries) return;
  const bool last = slot == args.entries;
  if (!last) args.slot_splat[slot] = args.entry_splat[args.slot_entry[slot]];
  const int before = slot == 0 ? -1 : slot_tile(args, int(slot) - 1);
  const int tiles = args.tiles_x * args.tiles_y, tile = last ? tiles : slot_tile(args, int(slot));
  for (int t = before + 1; t <= tile; ++t) args.tile_begin[t] = int(slot);
  if (args.keep && before < tiles && tile == tiles) *args.bucket_splats = bucket_size(args, int(slot));
}
