// The streets world: (domain, seed, index) -> image, label map, depth. Every bit is a function of the arguments.
#pragma once
#include <cstdint>

#include "../common/isa.h"

namespace dgseg {

// The order of dgseg/data/streets/domains.py, which is part of every scene's hash: append only.
enum class StreetsDomain { game, generated, city, country, suburb, fog, rain, snow, night, dusk };
constexpr int kStreetsDomains = 10;

// The same scene shown otherwise: see shift.h.
struct StreetsShift {
  uint64_t seed;          // which other look, paints and objects
  bool look;              // another palette, light, weather and sensor
  bool paints;            // signs, people and vehicles in other colours
  const uint8_t* pasted;  // [height, width]: 0, or the number of an object of no class that stands there; or null
};

struct StreetsArgs {
  StreetsDomain domain;
  uint64_t seed, index;
  int64_t height, width;
  float misalignment;                   // pixels by which the image strays from the label map, which stays the plan
  bool unknown;                         // put objects of no training class on the road, labelled 254
  uint8_t* label;                       // [height, width]
  uint8_t* image;                       // [3, height, width], or null: labels alone, at a fraction of the cost
  float* depth;                         // [height, width], metres, 0 where nothing is; or null
  const StreetsShift* shift = nullptr;  // null: as the world is
};

DGSEG_DECLARE_KERNEL(streets_render, const StreetsArgs& args)

}  // namespace dgseg
