// What draws moving pictures, where there is WebGL by a graphics processor.
export const quickFor = () => null;
