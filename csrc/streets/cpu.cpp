// The streets world's renderer. One scene is one task; callers spread scenes.
//
// Every bit is a function of (domain, seed, index, size, options) on every machine: random numbers are hashes of
// counters, arithmetic is IEEE +, -, *, / and square root in the order written (CMakeLists.txt forbids contraction
// here), nothing calls libm, and no loop sums in an order that vector width could change.
//
// Cost at 256 x 512 on one core of 2.6 GHz: 12 to 15 ms, of which geometry and depth alone (labels) are 3; the rest is
// noise textures, weather and sensor. Misalignment adds a second drawing and a warp: 5 ms.
//
// Reading order: random, maths, canvas (the one primitive), style (the domains), brush, vehicles, people, furniture,
// buildings, unknown, ground, scene (where things stand), shift, weather, sensor.
#include "kernel.h"
#include "scene.h"
#include "sensor.h"
#include "shift.h"

namespace dgseg::DGSEG_ISA {
namespace {

Camera camera_of(const Style& style, const StreetsArgs& args) {
  // Other shapes than 2:1 see a part of the 2:1 view, or more of it, without distortion.
  const float base = most(float(args.width), 2.0f * float(args.height));
  return {style.focal * base, float(args.width) * 0.5f,
          style.horizon * base * 0.5f + (float(args.height) - base * 0.5f) * 0.5f, style.camera_height, 0};
}

void draw(Canvas& canvas, const Style& style, const StreetsArgs& args, uint64_t key, float stray) {
  canvas.camera = camera_of(style, args);
  const StreetsShift* shift = args.shift;
  Paints other;
  if (shift && shift->paints) {
    other = paints(shift->seed);
    canvas.paints = &other;
  }
  Scene scene({canvas, style}, key, {stray, mix64(key + kStray)});
  scene.draw(args.unknown);
  Brush brush{canvas, style};
  if (shift && shift->pasted) paste(brush, shift->pasted, shift->seed);
  canvas.paints = nullptr;
}

}  // namespace

void streets_render(const StreetsArgs& args) {
  const uint64_t key =
      mix64(mix64(mix64(uint64_t(args.domain) + 0x73747265657473ull) + args.seed) + args.index * 0x9e3779b97f4a7c15ull);
  Random random(key, kStyle);
  const Style own = style_of(args.domain, random);
  const Style style = args.shift && args.shift->look ? restyled(own, args.shift->seed) : own;
  const int height = int(args.height), width = int(args.width);
  auto plan = [&](const Canvas& canvas) {
    for (int64_t i = 0; i < canvas.pixels(); ++i) args.label[i] = canvas.label[i];
    if (args.depth)
      for (int64_t i = 0; i < canvas.pixels(); ++i)
        args.depth[i] = canvas.nearness[i] > 0 ? 1.0f / canvas.nearness[i] : 0.0f;
  };
  if (!args.image || args.misalignment > 0) {
    Canvas canvas(height, width, false);
    draw(canvas, style, args, key, 0);
    plan(canvas);
  }
  if (!args.image) return;
  Canvas canvas(height, width, true);
  draw(canvas, style, args, key, args.misalignment);
  if (!(args.misalignment > 0)) plan(canvas);
  weather(canvas, style, mix64(key + kPost));
  expose(canvas, style, args.misalignment, mix64(key + kPost + 100), args.image);
}

}  // namespace dgseg::DGSEG_ISA
