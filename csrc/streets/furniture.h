// Poles and what hangs on them, walls and fences, trees and hedges.
#pragma once
#include "brush.h"

namespace dgseg {
namespace {

inline void pole(Brush& brush, V3 foot, float wide, float tall, Colour colour) {
  wide = most(wide, 1.3f * brush.canvas.pixel_at(foot.z));  // at least about one pixel
  const Colour light = brush.light();
  stand(brush, foot, wide, tall, [&](float x, float, Texel& texel) {
    texel.label = kPole;
    texel.colour = colour * light * (0.85f - 0.6f * x / wide);
    return true;
  });
}

// The arm reaches over the road: `reach` metres to the right, or to the left where negative.
inline void street_lamp(Brush& brush, V3 foot, float tall, float reach, Colour colour) {
  pole(brush, foot, 0.22f, tall, colour);
  const float thick = most(0.10f, 1.1f * brush.canvas.pixel_at(foot.z));
  const float left = reach < 0 ? reach : 0.0f;
  brush.canvas.rectangle({foot.x + left, tall, foot.z}, {size(reach), 0, 0}, {0, thick, 0},
                         [&](float s, float, Texel& texel) {
                           const float out = reach < 0 ? 1.0f - s : s;
                           texel.label = kPole;
                           texel.colour = out > 0.6f ? Colour{0.95f, 0.88f, 0.65f} : colour * brush.light();
                           texel.glow = out > 0.6f ? brush.style.dark : 0.0f;
                           return true;
                         });
  if (brush.style.dark > 0.2f)
    brush.canvas.lamp({foot.x + reach * 0.8f, tall, foot.z}, Colour{1.0f, 0.80f, 0.48f} * brush.style.dark, 11.0f,
                      0.8f);
}

struct Signal {
  float tall;   // where its box begins
  int lit;      // 0 green, 1 amber, 2 red, as they are stacked
  bool turned;  // seen from behind or from the side
  float grown;  // scale
};

inline void traffic_light(Brush& brush, V3 foot, const Signal& signal, Colour colour) {
  pole(brush, foot, 0.18f, signal.tall, colour);
  static constexpr Colour kLamps[] = {{0.15f, 0.95f, 0.45f}, {1.0f, 0.75f, 0.1f}, {1.0f, 0.12f, 0.08f}};
  const float wide = most(0.42f * signal.grown, 2.2f * brush.canvas.pixel_at(foot.z)), tall = 1.1f * signal.grown;
  brush.canvas.rectangle({foot.x - wide * 0.5f, signal.tall, foot.z - 0.05f}, {wide, 0, 0}, {0, tall, 0},
                         [&](float s, float t, Texel& texel) {
                           texel.label = kTrafficLight;
                           texel.colour = Colour{0.07f, 0.08f, 0.07f};
                           const int lamp = int(clamp(t * 3.0f, 0, 2.99f));
                           if (!signal.turned && in_ellipse(s, t * 3.0f, 0.5f, float(lamp) + 0.5f, 0.38f, 0.42f)) {
                             texel.colour = lamp == signal.lit ? kLamps[lamp] : kLamps[lamp] * 0.18f;
                             texel.glow = lamp == signal.lit ? 1.0f : 0.0f;
                           }
                           return true;
                         });
  if (!signal.turned && brush.style.dark > 0.2f)
    brush.canvas.lamp({foot.x, signal.tall + tall * (float(signal.lit) + 0.5f) / 3.0f, foot.z}, kLamps[signal.lit], 0,
                      0.45f);
}

struct Board {
  int kind;  // 0 prohibition, 1 warning, 2 information, 3 direction, 4 give way, 5 stop
  float grown, low;
  uint32_t seed;
};

inline void traffic_sign(Brush& brush, V3 foot, const Board& board, Colour colour) {
  const float tall = 0.8f * board.grown, wide = board.kind == 3 ? tall * 2.2f : tall;
  pole(brush, foot, 0.13f, board.low + tall * 0.5f, colour);
  const Colour light = brush.light() * 1.1f, red{0.80f, 0.08f, 0.08f}, white{0.92f, 0.92f, 0.90f};
  brush.canvas.rectangle(
      {foot.x - wide * 0.5f, board.low, foot.z - 0.05f}, {wide, 0, 0}, {0, tall, 0},
      [&](float s, float t, Texel& texel) {
        texel.label = kTrafficSign;
        const float x = 2.0f * s - 1.0f, y = 2.0f * t - 1.0f, r = x * x + y * y;
        const bool glyph = noise(s * 4.0f, t * 4.0f, board.seed) > 0.25f;
        const float edge = most(size(x), size(y)), corner = 1.0f - y;  // the triangle's width falls upwards
        bool there = true;
        if (board.kind == 0) {
          there = r < 1;
          texel.colour = r > 0.55f ? red : glyph ? Colour{0.1f, 0.1f, 0.1f} : white;
        } else if (board.kind == 1 || board.kind == 4) {
          const float width = board.kind == 1 ? corner * 0.5f : (1.0f + y) * 0.5f;
          there = size(x) < width;
          const bool inside = size(x) < width - 0.22f && size(y) < 0.78f;
          texel.colour = !inside ? red : glyph && board.kind == 1 ? Colour{0.1f, 0.1f, 0.1f} : white;
        } else if (board.kind == 2) {
          texel.colour = edge > 0.86f || glyph ? white : Colour{0.08f, 0.25f, 0.65f};
        } else if (board.kind == 3) {
          const bool letters = fraction(t * 3.0f) < 0.5f && noise(s * 14.0f, float(int(t * 3.0f)), board.seed) > -0.1f;
          texel.colour = edge > 0.92f || (letters && edge < 0.8f) ? white
                         : (board.seed & 1) != 0                  ? Colour{0.10f, 0.42f, 0.22f}
                                                                  : Colour{0.85f, 0.68f, 0.10f};
        } else {
          there = size(x) + size(y) < 1.45f;
          texel.colour = size(y) < 0.25f && size(x) < 0.65f && fraction(s * 5.0f) < 0.7f ? white : red;
        }
        texel.colour = texel.colour * light;
        return there;
      });
}

// A wall along a stretch of the pavement, from `foot` along `run`.
inline void wall(Brush& brush, V3 foot, V3 run, float long_, float tall, bool brick, Colour colour, uint32_t seed) {
  const Colour light = brush.light({run.z > 0 ? (foot.x > brush.canvas.camera.x ? -1.0f : 1.0f) : 0.0f, 0, -0.3f});
  brush.canvas.rectangle(foot, run, {0, tall, 0}, [&](float s, float t, Texel& texel) {
    const float along = s * long_, y = t * tall;
    texel.label = kWall;
    if (!brush.canvas.shaded) return true;
    texel.colour = colour * light * brush.rough(along * 2.0f, y * 2.0f, foot.z, seed);
    const float course = fraction(y * (brick ? 4.0f : 1.6f));
    const float joint = fraction(along * (brick ? 1.8f : 0.5f) + 0.5f * float(int(y * (brick ? 4.0f : 1.6f)) & 1));
    if (course < 0.14f || joint < 0.07f) texel.colour = texel.colour * 0.76f;
    if (tall - y < 0.14f) {
      texel.colour = Colour{0.72f, 0.71f, 0.68f} * light;
      texel.up = tall - y < 0.09f;
    }
    return true;
  });
}

// One sees through a fence, but its gaps belong to it: drawn after what stands behind it.
inline void fence(Brush& brush, V3 foot, V3 run, float long_, float tall, int kind, Colour colour) {
  const Colour light = brush.light({foot.x > brush.canvas.camera.x ? -1.0f : 1.0f, 0, -0.3f});
  brush.canvas.rectangle(foot, run, {0, tall, 0}, [&](float s, float t, Texel& texel) {
    const float along = s * long_, y = t * tall;
    texel.label = kFence;
    texel.colour = colour * light;
    const bool rail = within(t, 0.84f, 0.95f) || within(t, 0.18f, 0.28f);
    if (kind == 0) {  // pickets
      const float bar = fraction(along * 3.2f);
      texel.clear = bar > 0.52f && !rail;
      if (t > 0.93f) return bar < 0.4f;
    } else if (kind == 1) {  // bars
      texel.clear = fraction(along * 4.5f) > 0.38f && !rail;
    } else {  // mesh
      const float u = fraction((along + y) * 4.0f), v = fraction((along - y) * 4.0f);
      texel.clear = u > 0.34f && v > 0.34f && !rail && fraction(along * 0.5f) > 0.06f;
    }
    return true;
  });
}

// Leaves within a blob: a rim of noise, darker below and inside.
inline void crown(Brush& brush, V3 middle, float wide, float tall, Colour leaf, uint32_t seed, bool conifer) {
  const Colour light = brush.light();
  const float grain = 2.2f, fine = 1.0f / (1.0f + middle.z * 0.02f);
  stand(brush, middle - V3{0, tall * 0.5f, 0}, wide, tall, [&](float x, float y, Texel& texel) {
    const float u = 2.0f * x / wide, v = 2.0f * y / tall - 1.0f;
    const float ragged = 0.30f * noise(x * grain, y * grain, seed) + 0.16f * noise(x * 6.0f, y * 6.0f, seed + 1);
    const float edge = conifer ? size(u) * 2.0f + v + 0.15f : u * u + v * v + 0.12f;
    if (edge + ragged > 1.0f) return false;
    texel.label = kVegetation;
    if (!brush.canvas.shaded) return true;
    const float clump = noise(x * grain * 1.7f, y * grain * 1.7f, seed + 2);
    const float dots = noise(x * 7.0f, y * 7.0f, seed + 3) * fine;
    texel.colour = leaf * light * (0.78f + 0.24f * v + 0.26f * clump + 0.28f * dots);
    texel.up = 0.45f + 0.5f * v + 0.3f * clump;
    return true;
  });
}

struct Tree {
  float tall, wide, trunk;
  bool conifer;
  Colour leaf;
  uint32_t seed;
};

inline Tree tree(const Style& style, Random& random) {
  Tree t;
  t.conifer = random.chance(0.2f);
  t.tall = random.between(4.5f, 10.0f);
  t.wide = t.tall * (t.conifer ? random.between(0.35f, 0.5f) : random.between(0.6f, 0.95f));
  t.trunk = t.conifer ? t.tall * 0.12f : random.between(1.8f, 2.8f);
  t.leaf = vary(style.leaf, 0.06f, random);
  t.seed = random.bits();
  return t;
}

// The trunk is vegetation too.
inline void plant(Brush& brush, V3 foot, const Tree& t) {
  const float thick = most(0.05f * t.tall, 1.2f * brush.canvas.pixel_at(foot.z));
  const Colour light = brush.light();
  stand(brush, foot, thick, t.tall * 0.5f, [&](float x, float y, Texel& texel) {
    texel.label = kVegetation;
    texel.colour = Colour{0.30f, 0.23f, 0.17f} * light * (0.9f + 0.25f * noise(x * 9.0f, y * 3.0f, t.seed));
    return true;
  });
  const float crown_tall = t.tall - t.trunk;
  crown(brush, foot + V3{0, t.trunk + crown_tall * 0.5f, -0.1f}, t.wide, crown_tall * 1.1f, t.leaf, t.seed, t.conifer);
}

// A hedge or the edge of a wood: a strip whose top is ragged.
inline void hedge(Brush& brush, V3 foot, V3 run, float long_, float tall, Colour leaf, uint32_t seed) {
  const Colour light = brush.light();
  brush.canvas.rectangle(foot, run, {0, tall * 1.25f, 0}, [&](float s, float t, Texel& texel) {
    const float along = s * long_, y = t * tall * 1.25f;
    if (y > tall * (1.0f + 0.22f * noise(along * 2.5f / tall, 0.5f, seed))) return false;
    texel.label = kVegetation;
    if (!brush.canvas.shaded) return true;
    const float clump = noise(along * 2.0f, y * 2.0f, seed + 2), dots = noise(along * 6.0f, y * 6.0f, seed + 3);
    texel.colour = leaf * light * (0.72f + 0.25f * t + 0.22f * clump + 0.25f * dots);
    texel.up = 0.3f + 0.6f * t + 0.25f * clump;
    return true;
  });
}

}  // namespace
}  // namespace dgseg
