// Where experts lie on disk, and what is said when one cannot be read: the words of moe_mlx/store.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "parts.h"

namespace moe {

struct ReadError : std::runtime_error {
  ReadError(int layer, int expert, std::string path, std::string reason);
  int layer, expert;
  std::string path, reason;
};

struct File {
  std::string path;
  int64_t nbytes = -1;  // what the whole file must have; -1: not known
};

struct Range {
  int file;
  int64_t offset, nbytes;
};

using Digest = std::array<unsigned char, 16>;

// Where a layer's experts lie. With a root, files are opened below it and never through a symbolic link.
struct Shelf {
  int layer = 0;
  std::string root;
  int root_fd = -1;  // the reader's
  std::vector<std::string> tensors;
  std::vector<int64_t> tensor_nbytes;
  std::vector<File> files;
  std::vector<Range> ranges;     // experts x ranges an expert
  std::vector<Digest> digests;   // one an expert, or one for each of what `parts` has digested; or none
  Parts parts;                   // empty where an expert's tensors lie one behind the other
  std::vector<Parts> narrower;   // of experts that have fewer bits in their files
  std::vector<unsigned char> form;  // 0: as `parts`; n: as `narrower[n - 1]`; one an expert, or none where all are 0
  int experts = 0;
  int64_t key = 0;               // of files[0] among all shelves of a reader

  int64_t expert_nbytes() const;
  int64_t nbytes_of(Part part, int expert) const;  // what is read
  const Parts& parts_of(int expert) const;
  size_t runs() const { return ranges.size() / size_t(experts); }
};

}  // namespace moe
