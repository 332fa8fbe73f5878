// boundary_bands for any radii and any number of them, through memory: the range (smallest and largest valid label) of
// every pixel's row within the radius, then of these down the columns. Slower than tiles by the radius.
#pragma once
#include "cuda_args.h"

namespace dgseg {
namespace {

// Smallest and largest valid label of a pixel's row within `radius`; no valid label: smallest > largest.
struct Ranges {
  int64_t* smallest;  // [images, height, width]
  int64_t* largest;
};

// Widens a pixel's range from `before` (-1: nothing yet) to `radius` columns on either side.
DGSEG_PHASE void widen_range(const BandsOnDevice& a, const Ranges& ranges, int64_t pixel, int64_t before,
                             int64_t radius) {
  const int64_t x = pixel % a.width, y = pixel / a.width % a.height, image = pixel / a.width / a.height;
  const int64_t row = a.label_offset(image, y);
  int64_t low = before < 0 ? INT64_MAX : ranges.smallest[pixel], high = before < 0 ? INT64_MIN : ranges.largest[pixel];
  auto take = [&](int64_t from, int64_t to) {
    for (int64_t at = from < 0 ? 0 : from; at <= to && at < a.width; ++at) {
      const int64_t label = read_label(a.labels, a.type, row + a.column_offset(at));
      if (label == a.ignore_index) continue;
      low = label < low ? label : low;
      high = label > high ? label : high;
    }
  };
  take(x - radius, x - before - 1);
  take(x + before + 1, x + radius);
  ranges.smallest[pixel] = low;
  ranges.largest[pixel] = high;
}

DGSEG_PHASE void mark_band(const BandsOnDevice& a, const Ranges& ranges, int64_t pixel, int64_t radius, int band) {
  if (band > 0 && a.out[pixel]) return;
  const int64_t x = pixel % a.width, y = pixel / a.width % a.height, image = pixel / a.width / a.height;
  uint8_t mark = 0;
  if (read_label(a.labels, a.type, a.label_offset(image, y) + a.column_offset(x)) != a.ignore_index) {
    const int64_t first = y - radius < 0 ? 0 : y - radius, last = y + radius < a.height ? y + radius : a.height - 1;
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (int64_t at = pixel + (first - y) * a.width; at <= pixel + (last - y) * a.width; at += a.width) {
      low = ranges.smallest[at] < low ? ranges.smallest[at] : low;
      high = ranges.largest[at] > high ? ranges.largest[at] : high;
    }
    mark = high > low ? uint8_t(band + 1) : 0;
  }
  a.out[pixel] = mark;
}

}  // namespace
}  // namespace dgseg
