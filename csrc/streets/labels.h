// Train ids, as in dgseg/data/labels.py.
#pragma once
#include <cstdint>

namespace dgseg {
namespace {

enum Label : uint8_t {
  kRoad,
  kSidewalk,
  kBuilding,
  kWall,
  kFence,
  kPole,
  kTrafficLight,
  kTrafficSign,
  kVegetation,
  kTerrain,
  kSky,
  kPerson,
  kRider,
  kCar,
  kTruck,
  kBus,
  kTrain,
  kMotorcycle,
  kBicycle,
  kUnknown = 254
};

}  // namespace
}  // namespace dgseg
