# frozen_string_literal: true

module Fastcable
  # The connections that are kept and not in use. Threads may share it. A forked process leaves its parent's connections
  # alone: two processes would read each other's answers from them.
  class Pool
    # More threads than these may publish at the same time; their connections are closed afterwards.
    SIZE = 8

    def initialize
      @lock = Mutex.new
      @idle = []
      @process = Process.pid
    end

    # The connection that was used last, or nil.
    def take
      @lock.synchronize do
        forget_parent
        @idle.pop
      end
    end

    def put(connection)
      kept = @lock.synchronize do
        forget_parent
        @idle.push(connection) if @idle.size < SIZE
      end
      connection.close unless kept
    end

    def close
      connections = @lock.synchronize do
        forget_parent
        @idle.slice!(0..)
      end
      connections.each(&:close)
    end

    private

    def forget_parent
      return if @process == Process.pid

      @idle = [] # without closing them: over TLS that would say good-bye on the parent's behalf
      @process = Process.pid
    end
  end
end
