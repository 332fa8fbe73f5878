// Blocks of the city and houses of the suburb: facades with windows, doors and shops, gables, roofs.
#pragma once
#include "brush.h"

namespace dgseg {
namespace {

struct Building {
  float tall, storey, bay, pane_wide, pane_tall;  // metres; panes as shares of bay and storey
  bool brick, shops, gabled;
  Colour wall, frame, roof, shop;
  uint32_t seed;
};

inline Building building(const Style& style, Random& random, bool house) {
  Building b;
  b.gabled = house;
  b.tall = house ? random.between(3.2f, 6.2f) : random.between(7.0f, 24.0f);
  b.storey = random.between(2.8f, 3.6f);
  b.bay = random.between(1.8f, 3.6f);
  b.pane_wide = random.between(0.35f, 0.75f);
  b.pane_tall = random.between(0.42f, 0.66f);
  b.brick = random.chance(style.brick);
  b.shops = !house && random.chance(0.6f);
  b.wall = vary(style.plaster[random.below(6)], 0.05f, random);
  if (b.brick) b.wall = blend(b.wall, {0.52f, 0.27f, 0.20f}, 0.7f);
  b.frame = random.chance(0.6f) ? Colour{0.85f, 0.84f, 0.82f} : Colour{0.25f, 0.22f, 0.20f};
  b.roof = vary(random.chance(0.6f) ? Colour{0.52f, 0.25f, 0.18f} : Colour{0.28f, 0.28f, 0.30f}, 0.05f, random);
  b.shop = vary({0.45f, 0.35f, 0.35f}, 0.3f, random);
  b.seed = random.bits();
  return b;
}

inline Colour facade(const Brush& brush, const Building& b, float along, float y, float z, Colour light, float& glow) {
  const float dark = brush.style.dark;
  Colour wall = b.wall * light * brush.rough(along * 1.2f, y * 1.2f, z, b.seed);
  if (b.brick && z < 30.0f) {
    const float course = fraction(y * 5.0f), joint = fraction(along * 2.2f + 0.5f * float(int(y * 5.0f) & 1));
    if (course < 0.18f || joint < 0.08f) wall = wall * 0.84f;
  }
  if (b.tall - y < 0.35f && !b.gabled) return wall * 0.72f;  // cornice
  const int floor = floor_int(y / b.storey), column = floor_int(along / b.bay);
  const float up = fraction(y / b.storey), across = fraction(along / b.bay);
  const uint32_t here = lattice(column, floor, b.seed);
  const bool ground = floor == 0;
  float low = 0.28f, high = 0.28f + b.pane_tall, half = b.pane_wide * 0.5f;
  if (ground && b.shops) {
    if (up > 0.86f) return b.shop * light;  // the sign above the shop
    low = 0.12f, high = 0.80f, half = 0.45f;
  } else if (ground && unit(here) < 0.22f) {  // a door
    if (size(across - 0.5f) < 0.28f && up < 0.72f) return blend(b.shop, {0.2f, 0.14f, 0.1f}, 0.5f) * light;
    return wall;
  } else if (b.tall - y < b.storey * (1.0f - high)) {
    return wall;
  }
  const float x = size(across - 0.5f);
  if (x > half || up < low || up > high) return wall;
  if (x > half - 0.05f || up < low + 0.04f || (x < 0.02f && !ground)) return b.frame * light;
  const bool lit = unit(mix32(here)) < (ground && b.shops ? 0.75f : 0.28f);
  if (lit && dark > 0.2f) {
    glow = dark * 0.75f;
    return Colour{0.98f, 0.80f, 0.45f} * (0.55f + 0.45f * unit(here));
  }
  const float shine = 0.4f + 0.6f * unit(here) + 0.3f * (up - low);
  return Colour{0.16f, 0.20f, 0.25f} + brush.style.sky_low * (0.22f * shine * (1.0f - dark));
}

// A building between two points on its street side; `out` leads away from the street, as deep as it is long.
inline void raise(Brush& brush, V3 from, V3 to, V3 out, const Building& b) {
  Canvas& canvas = brush.canvas;
  const V3 run = to - from;
  const float length = __builtin_sqrtf(dot(run, run)), deep = __builtin_sqrtf(dot(out, out));
  const Colour street = brush.light({out.x < 0 ? 1.0f : -1.0f, 0, 0}), near = brush.light({0, 0, -1});
  canvas.rectangle(from, run, {0, b.tall, 0}, [&](float s, float t, Texel& texel) {
    texel.label = kBuilding;
    if (canvas.shaded) texel.colour = facade(brush, b, s * length, t * b.tall, from.z + s * run.z, street, texel.glow);
    return true;
  });
  const float rise = b.gabled ? least(3.0f, deep * 0.35f) : 0.0f;
  canvas.rectangle(from, out, {0, b.tall + rise, 0}, [&](float s, float t, Texel& texel) {
    const float y = t * (b.tall + rise);
    texel.label = kBuilding;
    if (y > b.tall && y - b.tall > rise * (1.0f - size(2.0f * s - 1.0f))) return false;
    if (canvas.shaded)
      texel.colour = y > b.tall ? b.wall * near : facade(brush, b, s * deep, y, from.z, near, texel.glow);
    return true;
  });
  if (b.gabled)  // the roof's street side
    canvas.rectangle(from + V3{0, b.tall, 0}, run, out * 0.5f + V3{0, rise, 0}, [&](float s, float t, Texel& texel) {
      texel.label = kBuilding;
      if (!canvas.shaded) return true;
      const float tile = fraction(t * 14.0f) < 0.2f ? 0.82f : 1.0f;
      texel.colour = b.roof * brush.light({out.x < 0 ? 0.5f : -0.5f, 0.8f, 0}) * tile *
                     brush.rough(s * length, t * 4.0f, from.z, b.seed);
      texel.up = true;
      return true;
    });
}

}  // namespace
}  // namespace dgseg
