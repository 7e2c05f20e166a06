// `leading`, an objective by a score that was learned: so many by it, then what is least like all that are kept.
#include <cmath>

#include "parity/objectives.hpp"

namespace edgeprune::parity {

namespace {

class Leading : public Objective {
  public:
    Leading(const Case &one, std::size_t patches)
        : away_(one.similarity(patches)), first_(one.of_patches("first", patches)),
          count_(whole_number(one.rule, "leading")) {
        for (double &value : away_.values) value = 1 - value;
        for (const double value : first_) scale_ = higher(scale_, std::abs(value));
    }
    Floats gains() override { return by_score() ? first_ : nearest_; }
    double noise(std::size_t) override { return by_score() ? 0 : 1; }
    double measured(std::size_t) override { return by_score() ? scale_ : 0; }
    void take(std::size_t pick) override {
        const double *row = away_[pick];
        if (picks_++ == 0) nearest_.assign(row, row + away_.columns);
        else
            for (std::size_t at = 0; at < nearest_.size(); ++at) nearest_[at] = lower(nearest_[at], row[at]);
    }

  private:
    bool by_score() const { return picks_ == 0 || picks_ < count_; }

    Matrix away_;
    Floats first_, nearest_;
    std::int64_t count_, picks_ = 0;
    double scale_ = 1e-12;
};

}  // namespace

std::unique_ptr<Objective> leading(const Case &one, std::size_t patches) {
    return std::make_unique<Leading>(one, patches);
}

}  // namespace edgeprune::parity
