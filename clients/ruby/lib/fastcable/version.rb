# frozen_string_literal: true

module Fastcable
  VERSION = "0.1.0"
end
