# frozen_string_literal: true

require_relative "lib/fastcable/version"

Gem::Specification.new do |spec|
  spec.name = "fastcable"
  spec.version = Fastcable::VERSION
  spec.summary = "Publishes to a fastcable server, from Ruby and as an Action Cable adapter"
  spec.description = "Broadcasts messages to the browsers that are subscribed to a stream of a fastcable server: " \
                     "with Fastcable.broadcast, or from Rails with `adapter: fastcable` in config/cable.yml."
  spec.authors = ["the fastcable authors"]
  spec.license = "MIT"
  spec.required_ruby_version = ">= 3.1"
  spec.files = Dir["lib/**/*.rb", "README.md", base: __dir__]
  spec.metadata["rubygems_mfa_required"] = "true"
end
