// Persons, and riders on bicycles and motorcycles: figures of capsules and ellipses that face the camera.
#pragma once
#include "vehicles.h"

namespace dgseg {
namespace {

struct Figure {
  float tall;    // metres
  float stride;  // how far the feet are apart, in metres
  float swing;   // of the arms
  bool skirt, bag, helmet;
  Colour top, bottom, skin, hair;
  uint32_t seed;
};

inline Figure figure(Random& random) {
  static constexpr Colour kClothes[] = {{0.12f, 0.12f, 0.15f}, {0.70f, 0.12f, 0.14f}, {0.16f, 0.28f, 0.58f},
                                        {0.85f, 0.83f, 0.80f}, {0.82f, 0.62f, 0.16f}, {0.22f, 0.42f, 0.30f},
                                        {0.50f, 0.28f, 0.44f}, {0.36f, 0.34f, 0.34f}};
  static constexpr Colour kTrousers[] = {
      {0.10f, 0.11f, 0.14f}, {0.18f, 0.24f, 0.40f}, {0.40f, 0.36f, 0.30f}, {0.24f, 0.24f, 0.26f}};
  Figure f;
  f.tall = random.between(1.55f, 1.92f);
  f.stride = random.between(0.0f, 0.36f);
  f.swing = random.between(-0.22f, 0.22f);
  f.skirt = random.chance(0.15f);
  f.bag = random.chance(0.3f);
  f.helmet = random.chance(0.6f);
  f.top = vary(kClothes[random.below(8)], 0.08f, random);
  f.bottom = vary(kTrousers[random.below(4)], 0.06f, random);
  f.skin = vary(random.chance(0.7f) ? Colour{0.80f, 0.60f, 0.48f} : Colour{0.42f, 0.28f, 0.20f}, 0.05f, random);
  f.hair = vary({0.22f, 0.16f, 0.10f}, 0.1f, random);
  f.seed = random.bits();
  return f;
}

inline void person(Brush& brush, V3 foot, const Figure& f) {
  const Colour light = brush.light();
  // A figure keeps at least the width of a pixel, or distant people would fall apart.
  const float stout = most(0.0f, 0.7f * brush.canvas.pixel_at(foot.z) - 0.05f), k = f.tall / 1.75f;
  stand(brush, foot, 1.1f * k, f.tall, [&](float x, float y, Texel& texel) {
    x = x / k;
    y = y / k;
    texel.label = kPerson;
    if (in_ellipse(x, y, 0, 1.62f, 0.105f + stout, 0.14f)) {
      texel.colour = (y > 1.66f ? f.hair : f.skin) * light;
      return true;
    }
    const float shoulder = 0.17f + 0.05f * smooth(1.1f, 1.4f, y) + stout;
    if (within(y, 0.86f, 1.48f) && size(x) < shoulder) {
      texel.colour = f.top * light * (0.85f + 0.3f * (x + 0.2f));
      if (f.bag && within(y, 0.95f, 1.2f) && x > 0.08f) texel.colour = {0.25f, 0.18f, 0.12f};
      return true;
    }
    if (in_capsule(x, y, -0.20f, 1.40f, -0.26f - f.swing * 0.5f, 0.85f, 0.065f + stout * 0.5f) ||
        in_capsule(x, y, 0.20f, 1.40f, 0.26f + f.swing * 0.5f, 0.85f, 0.065f + stout * 0.5f)) {
      texel.colour = (y < 0.93f ? f.skin : f.top) * light * 0.8f;
      return true;
    }
    if (f.skirt && within(y, 0.5f, 0.9f) && size(x) < 0.18f + 0.25f * (0.9f - y)) {
      texel.colour = f.bottom * light;
      return true;
    }
    if (in_capsule(x, y, -0.09f, 0.85f, -0.09f - f.stride * 0.5f, 0.06f, 0.085f + stout * 0.6f) ||
        in_capsule(x, y, 0.09f, 0.85f, 0.09f + f.stride * 0.5f, 0.06f, 0.085f + stout * 0.6f)) {
      texel.colour = y < 0.1f ? kTyre : f.bottom * light * (x < 0 ? 0.8f : 1.0f);
      return true;
    }
    return false;
  });
}

struct Cycle {
  bool motor;
  bool ridden;
  bool side_on;  // else seen from behind or from the front
  float facing;  // +1 or -1: which way it points when side on
  Colour frame;
  Figure rider;
};

inline Cycle cycle(Random& random, bool motor, bool ridden, bool side_on) {
  Cycle c;
  c.motor = motor;
  c.ridden = ridden;
  c.side_on = side_on;
  c.facing = random.chance(0.5f) ? 1.0f : -1.0f;
  static constexpr Colour kFrames[] = {{0.75f, 0.08f, 0.08f},
                                       {0.08f, 0.16f, 0.50f},
                                       {0.08f, 0.08f, 0.09f},
                                       {0.10f, 0.42f, 0.30f},
                                       {0.80f, 0.80f, 0.80f}};
  c.frame = vary(kFrames[random.below(5)], 0.05f, random);
  c.rider = figure(random);
  return c;
}

inline bool bicycle_from_side(float x, float y, float stout, const Cycle& c, Texel& texel) {
  texel.label = kBicycle;
  for (float hub : {-0.53f, 0.53f}) {
    if (!in_ellipse(x, y, hub, 0.35f, 0.35f + stout, 0.35f)) continue;
    const bool rim = !in_ellipse(x, y, hub, 0.35f, 0.27f - stout, 0.27f - stout);
    texel.colour = kTyre;
    texel.clear = !rim && fraction((x + y) * 9.0f) > 0.25f;  // between the spokes
    return true;
  }
  const float tube = 0.035f + stout;
  texel.colour = c.frame;
  if (in_capsule(x, y, -0.53f, 0.35f, -0.15f, 0.33f, tube) || in_capsule(x, y, -0.15f, 0.33f, 0.42f, 0.80f, tube) ||
      in_capsule(x, y, -0.15f, 0.33f, -0.24f, 0.88f, tube) || in_capsule(x, y, -0.22f, 0.80f, 0.42f, 0.82f, tube) ||
      in_capsule(x, y, 0.53f, 0.35f, 0.40f, 1.0f, tube))
    return true;
  texel.colour = kTyre;
  return in_capsule(x, y, -0.32f, 0.92f, -0.14f, 0.92f, tube + 0.02f) ||
         in_capsule(x, y, 0.36f, 1.02f, 0.52f, 1.0f, tube);
}

inline bool motorcycle_from_side(float x, float y, const Cycle& c, Texel& texel) {
  texel.label = kMotorcycle;
  for (float hub : {-0.68f, 0.70f})
    if (in_ellipse(x, y, hub, 0.32f, 0.32f, 0.32f)) {
      texel.colour = in_ellipse(x, y, hub, 0.32f, 0.15f, 0.15f) ? kChrome : kTyre;
      return true;
    }
  texel.colour = c.frame;
  if (in_ellipse(x, y, 0.12f, 0.82f, 0.34f, 0.17f) || in_capsule(x, y, -0.75f, 0.80f, -0.5f, 0.74f, 0.10f) ||
      in_capsule(x, y, 0.55f, 0.65f, 0.50f, 1.0f, 0.13f))
    return true;
  if (in_ellipse(x, y, 0.0f, 0.45f, 0.40f, 0.24f)) {
    texel.colour = blend(kChrome, kTyre, 0.4f + 0.6f * fraction(y * 7.0f));
    return true;
  }
  texel.colour = kTyre;
  return in_capsule(x, y, -0.72f, 0.84f, -0.12f, 0.80f, 0.09f) || in_capsule(x, y, 0.36f, 1.08f, 0.46f, 1.0f, 0.05f) ||
         in_capsule(x, y, 0.46f, 0.95f, 0.70f, 0.32f, 0.06f);
}

inline bool rider_from_side(float x, float y, float stout, const Cycle& c, Colour light, Texel& texel) {
  const Figure& f = c.rider;
  const float seat = c.motor ? 0.88f : 0.98f, hip = -0.26f, neck_x = c.motor ? -0.02f : 0.12f;
  texel.label = kRider;
  if (in_ellipse(x, y, neck_x + 0.08f, seat + 0.74f, 0.12f + stout, 0.14f + stout)) {
    texel.colour = (f.helmet || c.motor) && y > seat + 0.68f ? c.frame * 0.8f : y > seat + 0.78f ? f.hair : f.skin;
    return true;
  }
  texel.colour = f.top * light;
  if (in_capsule(x, y, hip + 0.03f, seat + 0.08f, neck_x, seat + 0.48f, 0.15f + stout)) return true;
  texel.colour = texel.colour * 0.75f;
  if (in_capsule(x, y, neck_x, seat + 0.48f, 0.40f, c.motor ? 1.06f : 1.06f, 0.055f + stout)) return true;
  texel.colour = f.bottom * light;
  return in_capsule(x, y, hip, seat, 0.12f, c.motor ? 0.72f : 0.68f, 0.085f + stout) ||
         in_capsule(x, y, 0.12f, c.motor ? 0.72f : 0.68f, -0.06f, 0.26f, 0.065f + stout);
}

inline bool rider_from_behind(float x, float y, float stout, const Cycle& c, Colour light, Texel& texel) {
  const Figure& f = c.rider;
  const float seat = c.motor ? 0.85f : 0.98f;
  texel.label = kRider;
  if (in_ellipse(x, y, 0, seat + 0.76f, 0.12f + stout, 0.15f)) {
    texel.colour = f.helmet || c.motor ? c.frame * 0.8f : f.hair;
    return true;
  }
  texel.colour = f.top * light;
  if (within(y, seat + 0.02f, seat + 0.62f) && size(x) < 0.18f + stout + 0.06f * (y - seat)) return true;
  texel.colour = texel.colour * 0.75f;
  if (in_capsule(size(x), y, 0.20f, seat + 0.52f, 0.30f, seat + 0.12f, 0.06f + stout * 0.5f)) return true;
  texel.colour = f.bottom * light;
  return in_capsule(size(x), y, 0.12f, seat, 0.17f, 0.32f, 0.08f + stout * 0.6f);
}

inline bool cycle_from_behind(float x, float y, float stout, const Cycle& c, bool front, Texel& texel) {
  texel.label = c.motor ? kMotorcycle : kBicycle;
  texel.colour = kTyre;
  const float tyre = (c.motor ? 0.11f : 0.05f) + stout, up = c.motor ? 0.62f : 0.70f;
  if (c.motor && within(y, 0.55f, 0.98f) && size(x) < 0.24f) {
    texel.colour = c.frame;
    if (in_ellipse(x, y, 0, 0.82f, 0.1f, 0.07f)) {
      texel.colour = front ? Colour{1, 1, 0.9f} : Colour{0.9f, 0.06f, 0.05f};
      texel.glow = 0.8f;
    }
    return true;
  }
  if (c.motor && within(y, 0.25f, 0.5f) && within(size(x), 0.12f, 0.24f)) {
    texel.colour = kChrome;
    return true;
  }
  if (y < up && size(x) < tyre) return true;
  if (!c.motor && within(y, 0.5f, 0.95f) && size(x) < 0.06f + stout) {
    texel.colour = y > 0.8f ? kTyre : c.frame;
    return true;
  }
  return within(y, 1.0f, 1.0f + 0.06f + stout) && size(x) < (c.motor ? 0.40f : 0.30f);
}

// The rider is in front of the cycle where both are: drawn a little nearer.
inline void two_wheeler(Brush& brush, const Place& place, const Cycle& c) {
  const Colour light = brush.light();
  const float stout = most(0.0f, 0.6f * brush.canvas.pixel_at(place.at.z) - 0.03f);
  const float wide = c.side_on ? 2.2f : 0.95f;
  const bool front = place.ahead.z < 0;
  ground_shadow(brush, {place.at, {1, 0, 0}}, wide * 0.9f, 0.7f);
  if (c.ridden)
    stand(brush, place.at - V3{0, 0, 0.05f}, wide, 1.95f, [&](float x, float y, Texel& texel) {
      return c.side_on ? rider_from_side(x * c.facing, y, stout, c, light, texel)
                       : rider_from_behind(x, y, stout, c, light, texel);
    });
  stand(brush, place.at, wide, 1.25f, [&](float x, float y, Texel& texel) {
    const bool there = !c.side_on ? cycle_from_behind(x, y, stout, c, front, texel)
                       : c.motor  ? motorcycle_from_side(x * c.facing, y, c, texel)
                                  : bicycle_from_side(x * c.facing, y, stout, c, texel);
    if (texel.glow <= 0) texel.colour = texel.colour * light;
    return there;
  });
  if (c.motor && !c.side_on) vehicle_lamps(brush, place, 0.2f, 0.01f, 0.82f);
}

}  // namespace
}  // namespace dgseg
