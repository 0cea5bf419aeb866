// Threads for one kind of work: as many as the system grants, and an error only where it grants none.
#pragma once

#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

namespace moe {

template <typename Work>
std::vector<std::thread> hire(int wanted, Work work) {
  std::vector<std::thread> crew;
  crew.reserve(size_t(std::max(1, wanted)));
  do {
    try {
      crew.emplace_back(work);
    } catch (const std::system_error&) {
      if (crew.empty()) throw;
      break;
    }
  } while (int(crew.size()) < wanted);
  return crew;
}

}  // namespace moe
