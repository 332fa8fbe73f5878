// Cars, trucks, buses and trains: boxes whose sides carry a silhouette, windows, wheels and lights.
#pragma once
#include <initializer_list>

#include "brush.h"

namespace dgseg {
namespace {

constexpr Colour kTyre{0.06f, 0.06f, 0.07f}, kGlass{0.10f, 0.13f, 0.17f}, kChrome{0.55f, 0.56f, 0.58f};

struct Paint {
  Colour body, second;
  uint32_t seed;
};

inline Paint car_paint(Random& random) {
  static constexpr Colour kColours[] = {{0.82f, 0.82f, 0.83f}, {0.10f, 0.10f, 0.11f}, {0.48f, 0.50f, 0.52f},
                                        {0.62f, 0.08f, 0.08f}, {0.10f, 0.20f, 0.48f}, {0.25f, 0.27f, 0.29f},
                                        {0.72f, 0.55f, 0.12f}, {0.14f, 0.34f, 0.24f}, {0.55f, 0.44f, 0.34f}};
  Paint paint;
  paint.body = vary(kColours[random.below(9)], 0.06f, random);
  paint.second = vary({0.7f, 0.7f, 0.7f}, 0.2f, random);
  paint.seed = random.bits();
  return paint;
}

// The dark ground under what stands there.
inline void ground_shadow(Brush& brush, const Place& place, float length, float wide) {
  brush.canvas.stain(place.point(-length * 0.5f, -wide * 0.5f, 0.015f), place.ahead * length, place.right() * wide,
                     0.25f + 0.55f * (1.0f - brush.style.dark) * least(1.0f, brush.style.sun.r * 1.5f + 0.4f));
}

// Where it is dark, head and tail lights dazzle.
inline void vehicle_lamps(Brush& brush, const Place& place, float length, float wide, float up) {
  const float dark = brush.style.dark + 0.3f * brush.style.rain;
  if (dark <= 0.2f) return;
  const bool towards = place.ahead.z < 0;
  for (float side : {-0.37f, 0.37f})
    brush.canvas.lamp(place.point(towards ? length * 0.5f : -length * 0.5f, side * wide, up),
                      towards ? Colour{1.0f, 0.96f, 0.85f} * dark : Colour{0.9f, 0.10f, 0.06f} * dark,
                      towards && place.at.z < 16.0f ? 5.0f * brush.style.dark : 0, towards ? 0.9f : 0.35f);
}

inline Colour window_glass(float up, float across, uint32_t seed) {
  const float shine = 0.5f + 0.5f * noise(across * 1.3f, up * 2.0f, seed);
  return kGlass + Colour{0.20f, 0.24f, 0.28f} * (shine * up);
}

struct CarShape {
  float length, wide, tall, belt;  // metres; belt: where the windows begin
  float cabin_back, cabin_front;   // metres from the back, at the belt
  float slope_back, slope_front;   // metres that the glass leans inwards
};

inline CarShape car_shape(Random& random) {
  const int kind = random.below(4);
  CarShape c{random.between(4.2f, 4.8f), 1.8f, 1.45f, 0.92f, 0.55f, 3.2f, 0.65f, 0.85f};            // saloon
  if (kind == 1) c = {random.between(3.7f, 4.2f), 1.75f, 1.52f, 0.95f, 0.05f, 2.9f, 0.40f, 0.80f};  // hatchback
  if (kind == 2) c = {random.between(4.4f, 4.9f), 1.9f, 1.72f, 1.05f, 0.05f, 3.4f, 0.35f, 0.70f};   // off-roader
  if (kind == 3) c = {random.between(4.5f, 5.1f), 1.9f, 1.90f, 1.10f, 0.02f, 4.0f, 0.12f, 0.80f};   // van
  c.tall += random.between(-0.05f, 0.05f);
  return c;
}

inline bool in_wheels(float along, float up, const CarShape& c, float radius) {
  return in_ellipse(along, up, c.length * 0.19f, 0.32f, radius, radius) ||
         in_ellipse(along, up, c.length * 0.80f, 0.32f, radius, radius);
}

inline void car(Brush& brush, const Place& place, const CarShape& c, const Paint& paint) {
  Canvas& canvas = brush.canvas;
  const V3 length = place.ahead * c.length, wide = place.right() * c.wide, up{0, 1, 0};
  const V3 back_left = place.point(-c.length * 0.5f, -c.wide * 0.5f, 0);
  const Colour side_light = brush.light(place.right() * (place.at.x > canvas.camera.x ? -1.0f : 1.0f));
  for (int side = 0; side < 2; ++side)
    canvas.rectangle(back_left + wide * float(side), length, up * c.tall, [&](float s, float t, Texel& texel) {
      const float along = s * c.length, y = t * c.tall, lean = (y - c.belt) / (c.tall - c.belt);
      texel.label = kCar;
      const bool wheel = in_wheels(along, y, c, 0.33f);
      if (y < c.belt) {
        if (y < 0.24f && !wheel) return false;
        texel.colour = paint.body * side_light * (0.72f + 0.3f * y);
        if (in_wheels(along, y, c, 0.38f)) texel.colour = kTyre;
        if (wheel && in_wheels(along, y, c, 0.2f)) texel.colour = kChrome * side_light;
        if (!wheel && (y < 0.34f || size(along - c.length * 0.5f) < 0.025f)) texel.colour = texel.colour * 0.55f;
        return true;
      }
      const float from = c.cabin_back + lean * c.slope_back, to = c.cabin_front - lean * c.slope_front;
      if (along < from || along > to) return false;
      const bool frame = lean > 0.86f || along - from < 0.12f || to - along < 0.10f ||
                         size(along - (c.cabin_back + c.cabin_front) * 0.5f) < 0.06f;
      texel.colour = frame ? paint.body * side_light : window_glass(lean, along, paint.seed);
      return true;
    });
  for (int front = 0; front < 2; ++front) {
    const V3 corner = back_left + length * float(front);
    const Colour face_light = brush.light(place.ahead * (front ? 1.0f : -1.0f));
    const Colour lamp = front ? Colour{0.95f, 0.95f, 0.85f} : Colour{0.80f, 0.06f, 0.05f};
    canvas.rectangle(corner, wide, up * c.belt, [&](float s, float t, Texel& texel) {
      const float y = t * c.belt, x = (s - 0.5f) * c.wide;
      texel.label = kCar;
      if (y < 0.22f) {
        texel.colour = kTyre;
        return size(x) > c.wide * 0.33f;
      }
      texel.colour = paint.body * face_light * (0.75f + 0.3f * y);
      if (y < 0.42f) texel.colour = texel.colour * 0.55f;
      if (front && within(y, 0.40f, 0.58f) && size(x) < 0.45f) texel.colour = kTyre;
      if (within(y, 0.56f, 0.78f) && size(x) > c.wide * 0.32f) texel.colour = lamp, texel.glow = 0.75f;
      if (within(y, 0.46f, 0.58f) && size(x) < 0.26f) texel.colour = {0.85f, 0.85f, 0.78f};
      return true;
    });
    // The glass above leans inwards.
    const float at = front ? c.cabin_front : c.cabin_back, lean = front ? -c.slope_front : c.slope_back;
    const V3 foot = back_left + place.ahead * at + up * c.belt;
    canvas.rectangle(foot, wide, place.ahead * lean + up * (c.tall - c.belt), [&](float s, float t, Texel& texel) {
      texel.label = kCar;
      const bool frame = t > 0.88f || s < 0.07f || s > 0.93f;
      texel.colour = frame ? paint.body * face_light : window_glass(t, s * 2.0f, paint.seed);
      texel.up = frame;
      return true;
    });
  }
  const float roof_from = c.cabin_back + c.slope_back, roof_to = c.cabin_front - c.slope_front;
  const float decks[3][3] = {
      {roof_from, roof_to, c.tall}, {0, c.cabin_back, c.belt}, {c.cabin_front, c.length, c.belt}};
  for (const float* deck : decks)
    canvas.rectangle(back_left + place.ahead * deck[0] + up * deck[2], place.ahead * (deck[1] - deck[0]), wide,
                     [&](float, float, Texel& texel) {
                       texel.label = kCar;
                       texel.colour = paint.body * brush.light(up) * 1.05f;
                       texel.up = true;
                       return true;
                     });
}

// A box with a face on each side: what buses, trucks and trains are made of. shade(side, along, y, texel); side 0 the
// left, 1 the right, 2 the back, 3 the front, 4 the top; along in metres from the back or from the left.
template <class Shade>
inline void box(Brush& brush, const Place& place, float length, float wide, float low, float high, const Shade& shade) {
  Canvas& canvas = brush.canvas;
  const V3 ahead = place.ahead * length, right = place.right() * wide, up{0, high - low, 0};
  const V3 corner = place.point(-length * 0.5f, -wide * 0.5f, low);
  auto face = [&](int side, V3 origin, V3 u, V3 v, float across, float tall, V3 normal) {
    const Colour light = brush.light(normal);
    canvas.rectangle(origin, u, v, [&](float s, float t, Texel& texel) {
      if (!shade(side, s * across, t * tall, texel)) return false;
      texel.colour = texel.glow > 0 ? texel.colour : texel.colour * light;
      texel.up = side == 4;
      return true;
    });
  };
  face(0, corner, ahead, up, length, high - low, place.right() * -1.0f);
  face(1, corner + right, ahead, up, length, high - low, place.right());
  face(2, corner, right, up, wide, high - low, place.ahead * -1.0f);
  face(3, corner + ahead, right, up, wide, high - low, place.ahead);
  face(4, corner + up, ahead, right, length, wide, {0, 1, 0});
}

inline bool lit_window(float along, uint32_t seed) { return unit(lattice(floor_int(along), 7, seed)) < 0.8f; }

inline void bus(Brush& brush, const Place& place, float length, const Paint& paint) {
  const float tall = 3.05f, wide = 2.5f;
  const float night = brush.style.dark;
  box(brush, place, length, wide, 0, tall, [&](int side, float along, float y, Texel& texel) {
    texel.label = kBus;
    texel.colour = y > 1.15f && y < 2.75f ? paint.body : paint.second;
    if (side == 4) {
      texel.colour = {0.80f, 0.80f, 0.80f};
      return true;
    }
    if (side < 2) {
      const bool wheel = in_ellipse(along, y, length * 0.22f, 0.48f, 0.48f, 0.48f) ||
                         in_ellipse(along, y, length * 0.80f, 0.48f, 0.48f, 0.48f);
      if (y < 0.28f && !wheel) return false;
      const float bay = fraction(along * 0.66f);
      const bool door = fraction(along / length * 3.0f + 0.12f) < 0.22f && y > 0.35f && y < 2.5f;
      if ((y > 1.25f && y < 2.45f && bay > 0.06f) || (door && bay > 0.12f)) {
        texel.colour = window_glass(y * 0.4f, along, paint.seed);
        if (night > 0) texel.colour = {0.85f, 0.78f, 0.55f}, texel.glow = 0.55f * night;
      }
      if (wheel) texel.colour = in_ellipse(along, y, length * 0.22f, 0.48f, 0.2f, 0.2f) ? kChrome : kTyre;
      return true;
    }
    if (y < 0.3f) {
      texel.colour = kTyre;
      return size(along - wide * 0.5f) > 0.7f;
    }
    const float x = size(along - wide * 0.5f);
    if (within(y, side == 3 ? 0.95f : 1.5f, 2.35f) && x < wide * 0.44f) {
      texel.colour = window_glass(y * 0.3f, along, paint.seed);
      if (night > 0) texel.colour = {0.8f, 0.74f, 0.52f}, texel.glow = 0.4f * night;
    }
    if (within(y, 2.5f, 2.85f) && x < wide * 0.34f) {  // where it goes
      texel.colour = Colour{1.0f, 0.62f, 0.1f} * (noise(along * 9.0f, y * 6.0f, paint.seed) > 0 ? 1.0f : 0.15f);
      texel.glow = 0.6f;
    }
    if (within(y, 0.5f, 0.75f) && x > wide * 0.34f)
      texel.colour = side == 3 ? Colour{0.95f, 0.95f, 0.85f} : Colour{0.85f, 0.07f, 0.05f}, texel.glow = 0.8f;
    return true;
  });
}

// Cab in front, cargo behind: a box, a tank, or a low side.
inline void truck(Brush& brush, const Place& place, float length, float tall, const Paint& paint) {
  const float wide = 2.45f, cab = 2.1f, body = length - cab - 0.25f;
  const Place cargo{place.point(-(cab + 0.25f) * 0.5f, 0, 0), place.ahead};
  box(brush, cargo, body, wide, 0, tall, [&](int side, float along, float y, Texel& texel) {
    texel.label = kTruck;
    texel.colour = paint.second;
    if (side == 4) return true;
    if (side < 2) {
      const bool wheel = in_ellipse(along, y, 1.0f, 0.5f, 0.5f, 0.5f) || in_ellipse(along, y, 2.15f, 0.5f, 0.5f, 0.5f);
      if (y < 1.05f) {
        texel.colour = wheel ? kTyre : Colour{0.22f, 0.22f, 0.23f};
        return wheel || y > 0.75f;
      }
      if (fraction(along * 1.25f) < 0.10f) texel.colour = texel.colour * 0.80f;  // ribs
      if (within(y, tall * 0.5f, tall * 0.72f) && within(along, body * 0.2f, body * 0.75f)) texel.colour = paint.body;
      return true;
    }
    const float x = size(along - wide * 0.5f);
    if (y < 0.55f) {
      texel.colour = kTyre;
      return x > 0.65f;
    }
    if (y < 1.05f) {
      texel.colour = {0.24f, 0.24f, 0.25f};
      if (x > 0.85f && side == 2) texel.colour = {0.82f, 0.07f, 0.05f}, texel.glow = 0.7f;
      if (within(y, 0.75f, 0.95f) && x < 0.75f)
        texel.colour = fraction(along * 3.0f + y * 3.0f) < 0.5f ? Colour{0.85f, 0.1f, 0.1f} : Colour{0.9f, 0.9f, 0.9f};
      return true;
    }
    if (x < 0.03f || x > wide * 0.47f || tall - y < 0.10f) texel.colour = texel.colour * 0.55f;  // doors and frame
    if (size(x - 0.45f) < 0.03f) texel.colour = kChrome;
    return true;
  });
  const Place front{place.point(length * 0.5f - cab * 0.5f, 0, 0), place.ahead};
  const float cab_tall = least(tall, 2.9f);
  box(brush, front, cab, wide * 0.97f, 0, cab_tall, [&](int side, float along, float y, Texel& texel) {
    texel.label = kTruck;
    texel.colour = paint.body;
    if (side == 4) return true;
    const float x = size(along - wide * 0.485f);
    if (side < 2) {
      const bool wheel = in_ellipse(along, y, cab * 0.5f, 0.5f, 0.5f, 0.5f);
      if (y < 0.45f && !wheel) return false;
      if (within(y, 1.55f, 2.35f) && within(along, 0.6f, 1.95f))
        texel.colour = window_glass(y * 0.3f, along, paint.seed);
      if (wheel) texel.colour = kTyre;
      return true;
    }
    if (y < 0.35f) return false;
    if (within(y, 1.55f, 2.45f) && x < wide * 0.43f) texel.colour = window_glass(y * 0.3f, along, paint.seed);
    if (within(y, 0.85f, 1.4f) && x < wide * 0.3f && fraction(y * 6.0f) < 0.5f) texel.colour = kTyre;
    if (within(y, 0.5f, 0.75f) && x > wide * 0.32f) texel.colour = {0.95f, 0.95f, 0.85f}, texel.glow = 0.8f;
    return true;
  });
}

// A tram on its rails: long, close to the ground, one band of windows from end to end, a dark face.
inline void train(Brush& brush, const Place& place, float length, const Paint& paint) {
  const float tall = 3.55f, wide = 2.6f, night = brush.style.dark;
  box(brush, place, length, wide, 0.12f, tall, [&](int side, float along, float y, Texel& texel) {
    texel.label = kTrain;
    texel.colour = y < 1.15f ? paint.body : paint.second;
    if (y > 3.0f) texel.colour = paint.body * 0.8f;
    if (side == 4) {
      texel.colour = {0.45f, 0.45f, 0.46f};
      return true;
    }
    if (y < 0.35f) texel.colour = {0.12f, 0.12f, 0.13f};
    if (side < 2) {
      const float car = fraction(along / 9.0f);
      if (car < 0.05f) {  // bellows
        texel.colour = Colour{0.16f, 0.16f, 0.17f} * (fraction(along * 6.0f) < 0.5f ? 1.0f : 1.5f);
        return true;
      }
      const bool door = within(car, 0.45f, 0.60f);
      if ((within(y, 1.35f, 2.5f) || (door && within(y, 0.4f, 2.6f))) && fraction(along * 0.8f) > 0.04f) {
        texel.colour = window_glass(y * 0.35f, along, paint.seed);
        if (night > 0) texel.colour = {0.8f, 0.84f, 0.75f}, texel.glow = 0.6f * night;
      }
      return true;
    }
    const float x = size(along - wide * 0.5f);
    if (within(y, 1.15f, 2.65f) && x < wide * 0.46f) {
      texel.colour = window_glass(y * 0.25f, along, paint.seed) * 0.8f;
      if (x < 0.03f) texel.colour = paint.body;
    }
    if (within(y, 2.72f, 3.05f) && x < 0.7f) {
      texel.colour = Colour{0.95f, 0.75f, 0.15f} * (noise(along * 9.0f, y * 6.0f, paint.seed) > 0 ? 1.0f : 0.2f);
      texel.glow = 0.6f;
    }
    if (in_ellipse(x, y, 0.85f, 0.75f, 0.16f, 0.16f) || in_ellipse(x, y, 0.0f, 3.2f, 0.12f, 0.12f))
      texel.colour = side == 3 ? Colour{1, 1, 0.9f} : Colour{0.9f, 0.08f, 0.06f}, texel.glow = 0.9f;
    if (x < 0.35f && within(y, 0.3f, 0.65f)) texel.colour = {0.08f, 0.08f, 0.08f};  // coupler
    return true;
  });
}

}  // namespace
}  // namespace dgseg
