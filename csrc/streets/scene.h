// Where things stand: a street, what lines it, who uses it. Drawn twice where the image strays from the label map;
// both passes consume the same random numbers.
#pragma once
#include "buildings.h"
#include "furniture.h"
#include "ground.h"
#include "people.h"
#include "unknown.h"

namespace dgseg {
namespace {

enum Stream : uint64_t { kStyle, kLayout, kBlocks, kFurniture, kTraffic, kPeople, kNovel, kPost, kStray };

constexpr float kFar = 150.0f;

// How an image strays from its plan: thin structures are dropped, or doubled beside themselves.
struct Stray {
  float pixels = 0;
  uint64_t key = 0, things = 0;

  template <class Draw>
  void thin(const Brush& brush, float z, const Draw& draw) {
    Random random(key, ++things);
    const float rate = least(0.22f, 0.05f * pixels), luck = random.uniform();
    const float side = random.chance(0.5f) ? 1.0f : -1.0f;
    const float aside = side * random.between(1.5f, 3.0f) * (1.0f + pixels);
    if (pixels > 0 && luck < rate) return;
    draw(0.0f);
    if (pixels > 0 && luck > 1.0f - rate) draw(aside * brush.canvas.pixel_at(z));
  }
};

class Scene {
 public:
  Scene(Brush brush, uint64_t key, Stray stray) : brush_(brush), style_(brush.style), key_(key), stray_(stray) {}

  void draw(bool unknown) {
    Random random(key_, kLayout);
    street_ = street(style_, random);
    const int own_lane = random.below(street_.lanes[1]);
    Camera& camera = brush_.canvas.camera;
    camera.x = (float(own_lane) + 0.5f) * street_.lane + random.between(-0.4f, 0.4f);
    const float shadow = random.chance(0.6f) ? random.between(-street_.line(0), street_.edge(1)) : -100.0f;
    sky(brush_, random.bits());
    ground(brush_, street_, shadow);
    horizon(random);
    for (int side = 0; side < 2; ++side) blocks(side);
    traffic();
    people();
    for (int side = 0; side < 2; ++side) furniture(side);
    if (unknown) novelties();
    for (int i = 0; i < fence_count_; ++i) {
      const Fence& f = fences_[i];
      stray_.thin(brush_, 20.0f, [&](float aside) {
        fence(brush_, f.foot + V3{aside, 0, 0}, f.run, f.length, f.tall, f.kind, f.colour);
      });
    }
  }

 private:
  Brush brush_;
  const Style& style_;
  const uint64_t key_;
  Stray stray_;
  Street street_{};

  struct Fence {
    V3 foot, run;
    float length, tall;
    int kind;
    Colour colour;
  };
  static constexpr int kMostFences = 64;
  Fence fences_[kMostFences];
  int fence_count_ = 0;

  float outwards(int side) const { return side ? 1.0f : -1.0f; }
  V3 beside(int side, float distance, float z) const { return street_.point(outwards(side) * distance, z); }

  // What closes the view where the street ends.
  void horizon(Random& random) {
    const float tall = random.between(6.0f, style_.layout == Layout::city ? 26.0f : 16.0f);
    const bool built = style_.layout == Layout::city && random.chance(0.7f);
    const uint32_t seed = random.bits();
    const Building block = building(style_, random, false);
    const V3 from{-260, 0, kFar + 30.0f};
    if (!built) {
      hedge(brush_, from, {520, 0, 0}, 520, tall, style_.leaf, seed);
      return;
    }
    brush_.canvas.rectangle(from, {520, 0, 0}, {0, tall * 1.6f, 0}, [&](float s, float t, Texel& texel) {
      const float top = 1.0f + 0.5f * noise(float(floor_int(s * 30.0f)), 0.5f, seed);
      if (t * 1.6f > top) return false;
      texel.label = kBuilding;
      texel.colour = facade(brush_, block, s * 520.0f, t * tall * 1.6f, from.z, brush_.light({0, 0, -1}), texel.glow);
      return true;
    });
  }

  void blocks(int side) {
    Random random(key_, kBlocks + 16 * side);
    const bool city = style_.layout == Layout::city, country = style_.layout == Layout::country;
    float z = random.between(-6.0f, 0.0f);
    while (z < kFar) {
      const float length = city ? random.between(12.0f, 26.0f) : random.between(9.0f, 18.0f);
      float end = z + length;
      if (street_.crossing < kFar && z < street_.crossing + Street::kCrossingWide + 2.0f &&
          end > street_.crossing - 2.0f) {
        end = street_.crossing - 2.0f;
        if (end - z < 5.0f) {
          z = street_.crossing + Street::kCrossingWide + 2.0f;
          continue;
        }
      }
      const float kind = random.uniform();
      if (kind < (city ? 0.80f : country ? 0.16f : 0.68f))
        built(side, z, end, random);
      else
        open(side, z, end, random);
      z = end + (city ? 0.0f : random.between(1.0f, 7.0f));
    }
  }

  void built(int side, float z, float end, Random& random) {
    const bool house = style_.layout != Layout::city;
    const Building b = building(style_, random, house);
    const float line = street_.line(side) + (house ? random.between(0.0f, 3.0f) : 0.0f);
    const V3 from = beside(side, line, z), to = beside(side, line, end);
    raise(brush_, from, to, {outwards(side) * (house ? 8.0f : 14.0f), 0, 0}, b);
    if (street_.verge[side] > 1.0f && random.chance(0.7f)) front(side, z, end, random);
    if (street_.verge[side] > 1.5f)
      for (int i = random.below(3); i > 0; --i) garden(side, z, end, random);
  }

  // A park, a field, a yard: something along its edge, trees behind.
  void open(int side, float z, float end, Random& random) {
    if (random.chance(0.75f)) front(side, z, end, random);
    const float line = street_.line(side);
    if (random.chance(0.5f)) {
      const V3 foot = beside(side, line + 9.0f, z - 2.0f), run = beside(side, line + 9.0f, end + 2.0f) - foot;
      const uint32_t seed = random.bits();
      const Colour leaf = vary(style_.leaf, 0.04f, random);
      const float tall = random.between(3.0f, 8.0f);
      hedge(brush_, foot, run, end - z + 4.0f, tall, leaf, seed);
    }
    for (int i = 1 + random.below(4); i > 0; --i) {
      const Tree t = tree(style_, random);
      const float at = random.between(z, end), behind = random.between(1.0f, 8.0f);
      plant(brush_, beside(side, line + behind, at), t);
    }
  }

  void garden(int side, float z, float end, Random& random) {
    Tree t = tree(style_, random);
    const float scale = random.between(0.25f, 0.6f), at = random.between(z, end);
    t.tall *= scale, t.wide *= scale, t.trunk *= scale * 0.6f;
    plant(brush_, beside(side, street_.edge(side) + street_.pavement[side] + random.between(0.8f, 1.5f), at), t);
  }

  // What parts a plot from the pavement.
  void front(int side, float z, float end, Random& random) {
    const float at = street_.edge(side) + street_.pavement[side] + 0.3f;
    const V3 foot = beside(side, at, z), run = beside(side, at, end) - foot;
    const float kind = random.uniform(), length = end - z;
    const uint32_t seed = random.bits();
    if (kind < 0.34f) {
      const Colour usual = random.chance(0.5f) ? Colour{0.56f, 0.54f, 0.50f} : Colour{0.56f, 0.36f, 0.28f};
      const Colour stone = vary(usual, 0.06f, random);
      const bool brick = random.chance(0.5f);
      const float tall = random.between(0.9f, 2.3f);
      wall(brush_, foot, run, length, tall, brick, stone, seed);
    } else if (kind < 0.76f) {
      static constexpr Colour kColours[] = {
          {0.84f, 0.82f, 0.78f}, {0.36f, 0.24f, 0.15f}, {0.16f, 0.20f, 0.18f}, {0.55f, 0.57f, 0.58f}};
      const Fence f{foot,
                    run,
                    length,
                    random.between(1.0f, 1.9f),
                    random.below(3),
                    vary(kColours[random.below(4)], 0.05f, random)};
      if (fence_count_ < kMostFences) fences_[fence_count_++] = f;
    } else {
      const Colour leaf = vary(style_.leaf, 0.05f, random);
      const float tall = random.between(0.8f, 1.9f);
      hedge(brush_, foot, run, length, tall, leaf, seed);
    }
  }

  // ---- traffic -----------------------------------------------------------------------------------------------------

  void traffic() {
    Random random(key_, kTraffic);
    for (int side = 0; side < 2; ++side) {
      for (int lane = 0; lane < street_.lanes[side]; ++lane) driving(side, lane, random);
      if (street_.parking[side] > 0) parked(side, random);
    }
    if (street_.crossing < kFar && random.chance(0.5f)) {  // somebody crosses
      const float z = street_.crossing + random.between(2.0f, 7.0f), x = random.between(-9.0f, 9.0f);
      const V3 ahead{random.chance(0.5f) ? 1.0f : -1.0f, 0, 0};
      vehicle({street_.point(x, z), ahead}, random);
    }
  }

  void driving(int side, int lane, Random& random) {
    const bool ours = side == 1;
    const float lateral = outwards(side) * (float(lane) + 0.5f) * street_.lane;
    const bool ego = ours && size(lateral - brush_.canvas.camera.x) < 1.6f;
    float z = random.between(ego ? 9.0f : 6.0f, ego ? 26.0f : 30.0f);
    if (!ours && lane == 0 && street_.rails && random.chance(0.55f)) {
      Paint paint = car_paint(random);
      static constexpr Colour kLivery[] = {
          {0.78f, 0.62f, 0.10f}, {0.12f, 0.45f, 0.30f}, {0.70f, 0.10f, 0.12f}, {0.15f, 0.30f, 0.60f}};
      paint.body = vary(kLivery[random.below(4)], 0.06f, random);
      paint.second = vary({0.82f, 0.81f, 0.78f}, 0.06f, random);
      const float length = random.between(18.0f, 34.0f), near = random.between(7.0f, 26.0f),
                  middle = near + length * 0.5f;
      const V3 heading = street_.heading(middle);
      const Place place{street_.point(lateral, middle), heading * -1.0f};
      ground_shadow(brush_, place, length, 2.7f);
      train(brush_, place, length, paint);
      vehicle_lamps(brush_, place, length, 2.0f, 0.75f);
      z = near + length + 6.0f;
    }
    while (z < 90.0f) {
      const V3 at = street_.point(lateral + random.between(-0.3f, 0.3f), z);
      const V3 heading = street_.heading(z) * (ours ? 1.0f : -1.0f);
      const float length = vehicle({at, heading}, random);
      z += length + random.between(6.0f, 44.0f) / style_.traffic;
    }
  }

  void parked(int side, Random& random) {
    const float lateral = outwards(side) * (street_.edge(side) - 1.05f);
    for (float z = random.between(3.0f, 12.0f); z < 80.0f; z += random.between(5.4f, 20.0f)) {
      if (within(z, street_.crossing - 8.0f, street_.crossing + Street::kCrossingWide + 4.0f)) continue;
      const Paint paint = car_paint(random);
      const CarShape shape = car_shape(random);
      const Place place{street_.point(lateral, z), street_.heading(z) * (side ? 1.0f : -1.0f)};
      ground_shadow(brush_, place, shape.length, shape.wide * 1.1f);
      car(brush_, place, shape, paint);
    }
  }

  // Its length in metres.
  float vehicle(const Place& given, Random& random) {
    const float kind = random.uniform();
    Paint paint = car_paint(random);
    if (kind < 0.71f) {
      const CarShape shape = car_shape(random);
      ground_shadow(brush_, given, shape.length * 1.05f, shape.wide * 1.15f);
      car(brush_, given, shape, paint);
      vehicle_lamps(brush_, given, shape.length, shape.wide, 0.68f);
      return shape.length;
    }
    if (kind < 0.79f) {
      const float length = random.between(6.5f, 11.0f), tall = random.between(2.9f, 3.9f);
      const Place place{given.at + given.ahead * (length * 0.5f), given.ahead};
      ground_shadow(brush_, place, length, 2.7f);
      truck(brush_, place, length, tall, paint);
      vehicle_lamps(brush_, place, length, 2.4f, 0.7f);
      return length;
    }
    if (kind < 0.845f) {
      const float length = random.between(9.5f, 12.5f);
      static constexpr Colour kLivery[] = {
          {0.75f, 0.10f, 0.10f}, {0.90f, 0.74f, 0.12f}, {0.86f, 0.86f, 0.85f}, {0.14f, 0.36f, 0.62f}};
      const int livery = random.below(4);
      paint.body = vary(kLivery[livery], 0.05f, random);
      paint.second = random.chance(0.5f) ? paint.body * 0.8f : vary(kLivery[(livery + 2) % 4], 0.05f, random);
      const Place place{given.at + given.ahead * (length * 0.5f), given.ahead};
      ground_shadow(brush_, place, length, 2.8f);
      bus(brush_, place, length, paint);
      vehicle_lamps(brush_, place, length, 2.4f, 0.62f);
      return length;
    }
    const Cycle c = cycle(random, kind < 0.915f, true, random.chance(0.4f) || size(given.ahead.x) > 0.7f);
    stray_.thin(brush_, given.at.z, [&](float aside) {
      two_wheeler(brush_, {given.at + V3{random_aside(given) + aside, 0, 0}, given.ahead}, c);
    });
    return 2.2f;
  }

  // Cycles keep to the outside of their lane.
  float random_aside(const Place& place) const { return place.ahead.z < 0 ? -0.9f : 0.9f; }

  // ---- people ------------------------------------------------------------------------------------------------------

  void people() {
    Random random(key_, kPeople);
    const bool country = style_.layout == Layout::country;
    const int walkers = int(random.between(country ? 1.0f : 3.0f, country ? 6.0f : 14.0f) * style_.people);
    for (int i = 0; i < walkers; ++i) {
      const int side = random.below(2);
      const float near = random.between(5.5f, 18.0f),
                  further = random.chance(0.4f) ? random.between(0.0f, 25.0f) : 0.0f;
      const float z = near + further;
      const float breadth = most(street_.pavement[side], 1.2f);
      const Figure f = figure(random);
      walker(beside(side, street_.edge(side) + random.between(0.2f, breadth), z), f);
    }
    if (random.chance(0.35f)) {  // on the road, mostly at the zebra crossing
      const bool crossing = street_.crossing < 40.0f;
      for (int i = 1 + random.below(3); i > 0; --i) {
        const float z = crossing ? street_.crossing - random.between(1.0f, 3.5f) : random.between(12.0f, 30.0f);
        const Figure f = figure(random);
        walker(street_.point(random.between(-6.0f, 6.0f), z), f);
      }
    }
    const int standing = random.below(country ? 2 : 4);  // cycles that lean somewhere
    for (int i = 0; i < standing; ++i) {
      const int side = random.below(2);
      const float z = random.between(6.0f, 26.0f);
      const Cycle c = cycle(random, random.chance(0.4f), false, true);
      const Place place{beside(side, street_.edge(side) + random.between(0.3f, 1.2f), z)};
      stray_.thin(brush_, z, [&](float aside) { two_wheeler(brush_, {place.at + V3{aside, 0, 0}, place.ahead}, c); });
    }
    for (int i = random.below(3); i > 0; --i) {  // some ride across
      const bool side_on = random.chance(0.8f), motor = random.chance(0.42f);
      const Cycle c = cycle(random, motor, true, side_on);
      const float z = random.between(7.0f, 18.0f);
      two_wheeler(brush_, {street_.point(random.between(-6.0f, 7.0f), z)}, c);
    }
  }

  void walker(V3 at, const Figure& f) {
    ground_shadow(brush_, {at, {1, 0, 0}}, 0.9f, 0.6f);
    person(brush_, at, f);
  }

  // ---- furniture ---------------------------------------------------------------------------------------------------

  void furniture(int side) {
    Random random(key_, kFurniture + 16 * side);
    const bool country = style_.layout == Layout::country;
    const float kerb = street_.edge(side) + 0.35f, inwards = -outwards(side);
    const Colour steel = vary({0.42f, 0.43f, 0.44f}, 0.12f, random);
    if (random.chance(country ? 0.35f : 0.8f)) {
      const float tall = random.between(5.5f, 8.0f), apart = random.between(16.0f, 26.0f),
                  reach = random.between(1.0f, 2.4f);
      for (float z = random.between(6.0f, 20.0f); z < 90.0f; z += apart) {
        const V3 foot = beside(side, kerb, z);
        stray_.thin(brush_, z,
                    [&](float aside) { street_lamp(brush_, foot + V3{aside, 0, 0}, tall, inwards * reach, steel); });
      }
    }
    const int signs = random.below(country ? 3 : 4);
    for (int i = 0; i < signs; ++i) {
      const float z = random.between(9.0f, 34.0f);
      const Board board{random.below(6), random.between(0.7f, 1.1f), random.between(1.7f, 2.4f), random.bits()};
      const V3 foot = beside(side, kerb + random.between(0.0f, 0.8f), z);
      stray_.thin(brush_, z, [&](float aside) { traffic_sign(brush_, foot + V3{aside, 0, 0}, board, steel); });
    }
    const bool crossing = street_.crossing < kFar;
    if (random.chance(crossing ? 0.85f : 0.3f)) {
      const float at = crossing ? street_.crossing - 2.0f : random.between(10.0f, 26.0f);
      const int lit = random.below(3);
      for (int i = 0; i < 3; ++i) {
        const float z = at + (i == 1 ? Street::kCrossingWide + 3.0f : 0.0f);
        const Signal signal{random.between(2.2f, 3.6f), lit, random.chance(0.2f), random.between(0.9f, 1.3f)};
        const V3 foot = beside(side, kerb + (i == 2 ? random.between(1.0f, 3.0f) : 0.0f), z);
        if (i == 2 && random.chance(0.6f)) continue;
        stray_.thin(brush_, z, [&](float aside) { traffic_light(brush_, foot + V3{aside, 0, 0}, signal, steel); });
      }
    }
    for (int i = random.below(country ? 5 : 3); i > 0; --i) {  // bollards, masts
      const float z = random.between(6.0f, 40.0f),
                  tall = random.chance(0.5f) ? random.between(0.8f, 1.1f) : random.between(4.0f, 9.0f);
      const V3 foot = beside(side, kerb + random.between(0.0f, 0.5f), z);
      stray_.thin(brush_, z, [&](float aside) { pole(brush_, foot + V3{aside, 0, 0}, 0.14f, tall, steel); });
    }
    if (random.chance(country ? 0.6f : 0.4f)) {  // a row of trees
      const float apart = random.between(7.0f, 16.0f);
      for (float z = random.between(6.0f, 16.0f); z < 100.0f; z += apart) {
        const Tree t = tree(style_, random);
        if (within(z, street_.crossing - 1.0f, street_.crossing + Street::kCrossingWide + 1.0f)) continue;
        plant(brush_, beside(side, kerb + (street_.pavement[side] > 2.5f ? 0.9f : street_.pavement[side] + 1.2f), z),
              t);
      }
    }
  }

  // ---- what no training class names ------------------------------------------------------------------------------

  void novelties() {
    Random random(key_, kNovel);
    for (int i = 1 + random.below(3); i > 0; --i) {
      const float z = random.between(7.0f, 26.0f);
      const Novelty n = novelty(random);
      const V3 at = street_.point(random.between(-street_.edge(0) * 0.6f, street_.edge(1) * 0.9f), z);
      ground_shadow(brush_, {at, {1, 0, 0}}, n.wide, n.wide * 0.5f);
      novel(brush_, at, n);
    }
  }
};

}  // namespace
}  // namespace dgseg
